"""The ONNX graphs of a flat prior; `onnx.flat_runtime` runs them.

Shapes: B rows, W frames of a context, h w code grid, P = h*w places, D width, C condition width, L decoder layers, F
heads of keys and values, d head width, E = F*d, M frames of memory, S = P + 1 positions of a frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.onnx.group_modules import GroupWeights, LayerWeights, layer_affines
from worldmodel.onnx.prior_export import (
    ROWS,
    DecoderSizes,
    Graph,
    Input,
    PriorExport,
    condition_inputs,
    context_inputs,
)
from worldmodel.prior.flat.flat_prior import FlatPrior
from worldmodel.prior.state_rows import StateRows


@dataclass(frozen=True)
class OnnxFlatState(StateRows):
    """`onnx.flat_runtime.NumpyFlatState` as tensors."""

    keys: Tensor
    values: Tensor
    frame_valid: Tensor
    codes: Tensor
    summary: Tensor
    status: Tensor
    times: Tensor

    def restart_times(self, rows: Tensor) -> Self:
        """As `StateRows.restart_times`."""
        return replace(self, times=self.times.masked_fill(rows, 0))


class FlatContext(nn.Module):
    """Read a context as a clip of its own: `FlatPrior.init_state` without loops and branches, as a graph needs it."""

    def __init__(self, prior: FlatPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(
        self, codes: Tensor, actions: Tensor, has_action: Tensor, status: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A context (B, W, ...) -> keys (B, L, F, d, W*S), values (B, L, F, W*S, d), frame summary (B, D)."""
        prior, window = self.prior, self.prior.window
        has_action = torch.cat([torch.zeros_like(has_action[:, :1]), has_action[:, 1:]], 1)  # (B, W)
        frame_valid = codes[:, :, 0, 0] != prior.num_codes  # (B, W)
        times = has_action.sum(1)[:, None] - torch.arange(window - 1, -1, -1)
        unknown = torch.full_like(times[:, 1:], prior.config.status.num_bins)
        frame_status = torch.cat([unknown, status[:, None]], 1)  # (B, W)
        outcome = prior.heads.embed_outcome(torch.zeros_like(times, dtype=torch.bool).flatten(), frame_status.flatten())
        condition = prior.action_encoder(actions, has_action) + outcome.reshape(-1, window, outcome.shape[-1])
        _, summaries, pairs = prior.transformer(codes, frame_valid, condition, times)
        frame_summary = prior.initial_summary.expand_as(summaries[:, 0])
        for t in range(window):
            frame_summary = torch.where(frame_valid[:, t, None], summaries[:, t], frame_summary)
        keys, values = (torch.stack(layers, 1) for layers in zip(*pairs, strict=True))  # (B, L, F, W*S, d)
        return keys.transpose(-1, -2), values, frame_summary


class FlatOutcome(nn.Module):
    """Termination and status of a step, predicted from the previous frame and the action."""

    def __init__(self, prior: FlatPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, frame_summary: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Summary of the previous frame (B, D) and actions -> summary (B, D), condition (B, C), hazards (B,), logits.

        The last are the status logits (B, bins or 1).
        """
        prior = self.prior
        has_action = torch.ones_like(frame_summary[:, :1], dtype=torch.bool)
        condition = prior.action_encoder(actions[:, None], has_action)[:, 0]
        summary = prior.transition(torch.cat([frame_summary, condition], -1))
        return summary, condition, prior.heads.end_logits(summary).sigmoid(), prior.heads.status_logits(summary)


class FlatFrameCondition(nn.Module):
    """The condition of a new frame: LayerNorm affines, inputs of its positions, and their rotary factors."""

    def __init__(self, prior: FlatPrior) -> None:
        super().__init__()
        self.heads, self.transformer, self.num_heads = prior.heads, prior.transformer, prior.config.num_heads
        self.num_kv_heads = prior.config.num_kv_heads or prior.config.num_heads

    def forward(
        self, condition: Tensor, terminations: Tensor, status: Tensor, codes: Tensor, times: Tensor
    ) -> tuple[Tensor, ...]:
        """The condition (B, C), the outcome (B,), the codes of the previous frame (B, h, w), the frame's time (B,).

        Returns:
            affines (B, 1, (4*L + 2)*D), those of the last LayerNorm at the end; position inputs (S, B, 1, D); with
            rotary positions rotary factors (S, 2, B, 1, D + E), cosines and sines for all queries and keys.
        """
        transformer, condition = self.transformer, condition + self.heads.embed_outcome(terminations, status)
        last = torch.cat(transformer.norm.gain_and_bias(condition), -1)[:, None]
        affines = torch.cat([layer_affines(transformer.blocks, condition), last], -1)
        place_inputs = transformer.position_inputs(codes[:, None], times[:, None])[:, 0].transpose(0, 1)[:, :, None]
        if transformer.rotary is None:
            return affines, place_inputs
        angles = transformer.rotary.cos_sin(times[:, None])[:, :, :, 0]  # (2, 2, B, S, d/2)
        of_queries = angles[0].repeat(1, 1, 1, 2 * self.num_heads)
        of_keys = angles[1].repeat(1, 1, 1, 2 * self.num_kv_heads)
        return affines, place_inputs, rearrange(torch.cat([of_queries, of_keys], -1), "c b s d -> s c b 1 d")


class FlatExport(PriorExport):
    """The export of a flat prior: each position of a frame is a group of its own, and the last predicts nothing."""

    prior: FlatPrior
    state_type = OnnxFlatState

    def decoder_sizes(self) -> DecoderSizes:
        """As `PriorExport.decoder_sizes`."""
        config, memory, num_places = self.prior.config, self.prior.memory, self.prior.grid[0] * self.prior.grid[1]
        return DecoderSizes(
            order="raster",
            group=1,
            places=list(range(num_places)),
            layers=config.num_layers,
            heads=config.num_kv_heads or config.num_heads,
            head_dim=config.width // config.num_heads,
            slots=(memory + 1) * (num_places + 1),
            memory=memory,
        )

    def graphs(self) -> dict[str, Graph]:
        """As `PriorExport.graphs`, and "context"."""
        prior, width, rows = self.prior, self.prior.config.width, torch.zeros(ROWS, dtype=torch.int64)
        context = context_inputs(prior)
        frame_summary = Input("frame_summary", torch.zeros(ROWS, width, dtype=torch.float32))
        actions = Input("actions", context[1].example[:, 0].clone())
        frame = Input("codes", context[0].example[:, 0].clone())
        condition = (*condition_inputs(prior.config.action_dim), frame, Input("times", rows))
        of_condition: tuple[str, ...] = ("affines", "place_inputs")
        rotary: tuple[Input, ...] = ()
        if prior.transformer.rotary is not None:
            rotated_dim = width + self.sizes.heads * self.sizes.head_dim
            rotary = (Input("rotary", torch.zeros(2, ROWS, 1, rotated_dim, dtype=torch.float32), 1),)
            of_condition = (*of_condition, "rotary")
        of_outcome = ("summary", "condition", "hazards", "status_logits")
        return {
            "context": Graph(FlatContext(prior), context, ("keys", "values", "frame_summary")),
            "outcome": Graph(FlatOutcome(prior), (frame_summary, actions), of_outcome),
            "frame_condition": Graph(FlatFrameCondition(prior), condition, of_condition),
            "group": self.group_graph(self._group_weights(), rotary),
        }

    def _group_weights(self) -> GroupWeights:
        transformer, blocks = self.prior.transformer, list[Any](self.prior.transformer.blocks)
        return GroupWeights(
            layers=[LayerWeights(block.qkv_proj, block.out_proj, block.up_proj, block.down_proj) for block in blocks],
            num_heads=self.prior.config.num_heads,
            num_kv_heads=self.sizes.heads,
            code_head=transformer.code_head,
            embeddings=torch.cat([transformer.code_embed.weight[:-1], transformer.start_token[None]]),
            place_bias=F.pad(transformer.place_bias, (0, 0, 0, 1)),
            group=1,
            has_rotary=transformer.rotary is not None,
            has_frame_summary=True,
        )
