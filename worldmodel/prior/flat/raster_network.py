"""The network of the flat prior: a transformer over frames in raster order, read whole or written code by code.

Shapes: B clips or rows, T frames, h w code grid, K = h*w codes a frame, S = K+1 positions, M frames of
memory, L layers, H heads, G heads of keys and values, d numbers a head, D width, C condition width, V codes in the
book (V: no frame).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.prior.conditioning import ConditionalLayerNorm
from worldmodel.prior.factored.factored_layers import codebook_vectors
from worldmodel.prior.flat.flat_config import FlatConfig
from worldmodel.prior.flat.flat_layers import FrameBlock, attention_mask
from worldmodel.prior.flat.frame_sampling import draw_frame
from worldmodel.prior.flat.rotary import Rotary
from worldmodel.prior.sampling import Sampling


class RasterNetwork(nn.Module):
    """S positions a frame: a learned start and the K codes; the start and code k predict code k+1.

    Args:
        config: sizes.
        grid: (h, w).
        num_codes: V.
        condition_dim: C.
        memory: M, frames before its own that a position sees.
    """

    def __init__(
        self, config: FlatConfig, grid: tuple[int, int], num_codes: int, condition_dim: int, memory: int
    ) -> None:
        super().__init__()
        (h, w), width, paper = grid, config.width, config.positions == "paper"
        self.grid, self.num_codes, self.memory, self.size = grid, num_codes, memory, h * w + 1
        self.condition_dim = condition_dim
        self.start = nn.Parameter(0.3 * torch.randn(width))
        self.embed = nn.Embedding(num_codes + 1, width)  # the last: no frame
        self.previous = nn.Embedding(num_codes + 1, width) if config.previous_frame else None
        self.lines = nn.Parameter(0.02 * torch.randn(h + 1, width))
        self.columns = nn.Parameter(0.02 * torch.randn(w, width))
        self.times = nn.Parameter(0.02 * torch.randn(config.num_frames, width)) if paper else None
        self.rotary = None if paper else Rotary(width // config.num_heads, grid, memory)
        kv_heads = config.num_kv_heads or config.num_heads
        sizes = (
            width,
            config.num_heads,
            kv_heads,
            condition_dim,
            config.feedforward,
            config.dropout,
            config.num_layers,
        )
        self.blocks = nn.ModuleList(FrameBlock(*sizes) for _ in range(config.num_layers))
        self.norm = ConditionalLayerNorm(width, condition_dim)
        self.logits = nn.Linear(width, num_codes)
        self.prejudice = nn.Parameter(torch.zeros(h * w, num_codes))  # what a place tends to show
        for table in self._tables():
            nn.init.normal_(table.weight, std=0.3)

    def _tables(self) -> list[nn.Embedding]:
        return [self.embed] if self.previous is None else [self.embed, self.previous]

    @torch.no_grad()
    def init_from_codes(self, embeddings: Tensor, counts: Tensor) -> None:
        """As `Prior.init_from_codes`: the codebook is where embeddings and logits start."""
        book = codebook_vectors(embeddings, self.embed.embedding_dim)  # (V, n)
        n = book.shape[1]
        for table in self._tables():
            table.weight[:-1, :n] = book
        self.logits.weight.mul_(0.3)
        self.logits.weight[:, :n] += book / math.sqrt(n) * 0.3
        self.logits.bias.zero_()
        share = counts.flatten(0, 1).double() + 0.1  # (K, V)
        self.prejudice.copy_((share / share.sum(1, keepdim=True)).log())

    def _given(self, previous: Tensor, times: Tensor) -> Tensor:
        """What positions are given beside their codes.

        The last position, which predicts nothing, stands at the beginning of the line below the picture.

        Args:
            previous: (B, T, h, w) int64, codes of the frame before, V where there was none.
            times: (B, T) int64.

        Returns:
            (B, T, S, D).
        """
        index, w = torch.arange(self.size, device=times.device), self.grid[1]
        given = (self.lines[index // w] + self.columns[index % w]).expand(*times.shape, -1, -1)  # (B, T, S, D)
        if self.times is not None:
            given = given + self.times[times.clamp_min(0)][:, :, None]
        if self.previous is not None:
            given = given + F.pad(self.previous(previous.flatten(2)), (0, 0, 0, 1))
        return given

    def read(
        self, pictures: Tensor, valid: Tensor, condition: Tensor, times: Tensor
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        """Whole clips in one pass.

        Args:
            pictures: (B, T, h, w) int64, V where a frame is invalid.
            valid: (B, T) bool.
            condition: (B, T, C).
            times: (B, T) int64, frames since the beginning; below 0 only where no frame is valid yet.

        Returns:
            Logits (B, T, K, V); z (B, T, D), what stands at each frame's last position; keys and values of each
            layer, (B, G, T*S, d), see `worldmodel.prior.flat.ring_cache`.
        """
        before = torch.cat([torch.full_like(pictures[:, :1], self.num_codes), pictures[:, :-1]], 1)
        codes = self.embed(pictures.flatten(2))  # (B, T, K, D)
        x = torch.cat([self.start.expand_as(codes[:, :, :1]), codes], 2) + self._given(before, times)  # (B, T, S, D)
        turns = None if self.rotary is None else self.rotary.turns(times)
        mask, pairs = attention_mask(valid, self.size, self.memory), []
        for block in self.blocks:
            x, keys_and_values = block(x, condition, mask, turns, self.memory)
            pairs.append(keys_and_values)
        x = self.norm(x.flatten(0, 1), condition.flatten(0, 1)).unflatten(0, valid.shape)
        logits = self.logits(x[:, :, :-1]) + self.prejudice  # (B, T, K, V)
        return logits, x[:, :, -1], pairs

    def write(
        self,
        keys: Tensor,
        values: Tensor,
        seen: Tensor,
        previous: Tensor,
        times: Tensor,
        condition: Tensor,
        draws: Tensor,
        sampling: Sampling,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a frame code by code; its keys and values become the cache's last frame, in place.

        Args:
            keys: (B, G, L, d, (n+1)*S), of n frames before, in any order, and room for one.
            values: (B, G, L, (n+1)*S, d), likewise.
            seen: (B, n) bool, which of those frames are there to be seen.
            previous: (B, h, w) int64, codes of the last frame, V where there was none.
            times: (B,) int64, of the new frame.
            condition: (B, C), of the new frame.
            draws: (B, K) float32 in [0, 1).
            sampling: how the codes are drawn.

        Returns:
            Codes (B, h, w); their log-probability (B,) as predicted; z (B, D).
        """
        given = self._given(previous[:, None], times[:, None])[:, 0]  # (B, S, D)
        codes, nats, z = draw_frame(self, keys, values, seen, given, times, condition, draws, sampling)
        return codes.unflatten(1, self.grid), nats, z
