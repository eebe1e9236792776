"""The transformer of the flat prior: frames as one sequence of codes in raster order (paper section 2.2).

Shapes: B clips or rows, T frames, h w code grid, K = h*w codes per frame, S = K+1 positions per frame, M frames of
memory, G key/value heads, d numbers per head, D width, C condition width, V codes in the codebook (code V: no frame).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from worldmodel.prior.code_init import init_code_weights
from worldmodel.prior.conditioning import ConditionalLayerNorm
from worldmodel.prior.cross_attention import CrossAttention
from worldmodel.prior.flat.flat_layers import Attention, FlatBlock, attention_mask
from worldmodel.prior.flat.ring_cache import LayerKeyValues
from worldmodel.prior.flat.rotary import RotaryEmbedding
from worldmodel.prior.raster_sizes import RasterSizes


class RasterTransformer(nn.Module):
    """S positions per frame: a learned start token and the K codes. The start token and code k predict code k+1.

    Args:
        config: sizes.
        grid: (h, w).
        num_codes: V.
        condition_dim: C.
        memory: M, frames before its own that a position attends to.
        attends_to_features: whether every block ends with attention to the features of given frames.

    Attributes:
        num_positions: S.
        activation_checkpointing: whether training keeps only the input of each block and computes the block again in
            the backward pass: less memory, about a third more time, the same gradients. False at first.
    """

    def __init__(
        self,
        config: RasterSizes,
        grid: tuple[int, int],
        num_codes: int,
        condition_dim: int,
        memory: int,
        attends_to_features: bool = False,
    ) -> None:
        super().__init__()
        (h, w), width, is_learned = grid, config.width, config.positions == "paper"
        self.grid, self.num_codes, self.memory, self.num_positions = grid, num_codes, memory, h * w + 1
        self.condition_dim, self.activation_checkpointing = condition_dim, False
        self.start_token = nn.Parameter(0.3 * torch.randn(width))
        self.code_embed = nn.Embedding(num_codes + 1, width)  # the last: no frame
        self.previous_frame_embed = nn.Embedding(num_codes + 1, width) if config.previous_frame else None
        self.row_embed = nn.Parameter(0.02 * torch.randn(h + 1, width))
        self.column_embed = nn.Parameter(0.02 * torch.randn(w, width))
        self.time_embed = nn.Parameter(0.02 * torch.randn(config.num_frames, width)) if is_learned else None
        self.rotary = None if is_learned else RotaryEmbedding(width // config.num_heads, grid, memory)
        self.blocks = nn.ModuleList(
            FlatBlock(
                width=width,
                num_heads=config.num_heads,
                num_kv_heads=config.num_kv_heads or config.num_heads,
                condition_dim=condition_dim,
                feedforward=config.feedforward,
                dropout=config.dropout,
                num_layers=config.num_layers,
            )
            for _ in range(config.num_layers)
        )
        self.cross_attention = nn.ModuleList(
            CrossAttention(width, config.num_heads, condition_dim, config.dropout, config.num_layers)
            for _ in range(config.num_layers * attends_to_features)
        )
        self.norm = ConditionalLayerNorm(width, condition_dim)
        self.code_head = nn.Linear(width, num_codes)
        self.place_bias = nn.Parameter(torch.zeros(h * w, num_codes))
        for table in self._code_tables():
            nn.init.normal_(table.weight, std=0.3)

    def _code_tables(self) -> list[nn.Embedding]:
        return [self.code_embed] if self.previous_frame_embed is None else [self.code_embed, self.previous_frame_embed]

    def init_from_codes(self, embeddings: Tensor, counts: Tensor) -> None:
        """As `Prior.init_from_codes`."""
        counts = counts.flatten(0, 1)  # (K, V)
        init_code_weights(self._code_tables(), self.code_head, self.place_bias, embeddings, counts)

    def position_inputs(self, previous: Tensor, times: Tensor) -> Tensor:
        """What is added to the code embedding of each position: its place, its time, the previous frame's code there.

        Position s predicts the code of place s. The last position predicts nothing; its place is the first one of the
        row below the grid.

        Args:
            previous: (B, T, h, w) int64, codes of the frame before, V where there is none.
            times: (B, T) int64.

        Returns:
            (B, T, S, D).
        """
        place, w = torch.arange(self.num_positions, device=times.device), self.grid[1]
        inputs = (self.row_embed[place // w] + self.column_embed[place % w]).expand(
            *times.shape, -1, -1
        )  # (B, T, S, D)
        if self.time_embed is not None:
            inputs = inputs + self.time_embed[times.clamp_min(0)][:, :, None]
        if self.previous_frame_embed is not None:
            inputs = inputs + F.pad(self.previous_frame_embed(previous.flatten(2)), (0, 0, 0, 1))
        return inputs

    def forward(
        self,
        codes: Tensor,
        valid: Tensor,
        condition: Tensor,
        times: Tensor,
        features: Tensor | None = None,
        attention: Attention | None = None,
    ) -> tuple[Tensor, Tensor, LayerKeyValues]:
        """Whole clips in one pass.

        Args:
            codes: (B, T, h, w) int64, V where a frame is invalid.
            valid: (B, T) bool.
            condition: (B, T, C).
            times: (B, T) int64, frames since the beginning; below 0 only where no frame is valid yet.
            features: (B, n, D) of given frames, if the blocks attend to them.
            attention: used in place of attention to all valid positions before.

        Returns:
            Logits (B, T, K, V); z (B, T, D), the output of each frame's last position; keys and values of each
            layer, (B, G, T*S, d), none with activation checkpointing.
        """
        previous = torch.cat([torch.full_like(codes[:, :1], self.num_codes), codes[:, :-1]], 1)
        embeddings = self.code_embed(codes.flatten(2))  # (B, T, K, D)
        x = torch.cat([self.start_token.expand_as(embeddings[:, :, :1]), embeddings], 2)  # (B, T, S, D)
        x = x + self.position_inputs(previous, times)
        cos_sin = None if self.rotary is None else self.rotary.cos_sin(times)
        mask = attention_mask(valid, self.num_positions, self.memory) if attention is None else None
        key_values = []

        def apply_block(index: int, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            x, layer_key_values = self.blocks[index](x, condition, mask, cos_sin, self.memory, attention)
            if features is not None:
                x = self.cross_attention[index](x, condition, features)
            return x, layer_key_values

        for index in range(len(self.blocks)):
            if self.activation_checkpointing and self.training:
                x, _ = checkpoint(apply_block, index, x, use_reentrant=False)
            else:
                x, layer_key_values = apply_block(index, x)
                key_values.append(layer_key_values)
        x = self.norm(x.flatten(0, 1), condition.flatten(0, 1)).unflatten(0, valid.shape)
        logits = self.code_head(x[:, :, :-1]) + self.place_bias  # (B, T, K, V)
        return logits, x[:, :, -1], key_values
