"""A world's step as modules of tensors, each of which becomes one ONNX file; `onnx.onnx_priors` runs them.

What is sampled (termination, status, codes) is sampled between them. `onnx.group_modules` has the module that predicts
the codes of a frame group by group.

Shapes: B rows, W frames of a context, h w code grid, P = h*w places, n groups of G places each (P = n*G), D width, C
condition width, L decoder layers, H heads, d head width, F heads of keys and values with E = F*d, S = P + 1 positions
of a frame.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from worldmodel.onnx.group_modules import num_kv_heads
from worldmodel.prior.context import Context
from worldmodel.prior.factored.factored_layers import FactoredBlock
from worldmodel.prior.factored.factored_prior import FactoredPrior
from worldmodel.prior.flat.flat_layers import FlatBlock
from worldmodel.prior.flat.flat_prior import FlatPrior
from worldmodel.prior.interface import Prior
from worldmodel.tokenizer import FrameTokenizer


class FactoredOutcome(nn.Module):
    """The trunk of a factored prior: termination and status of a step, and the inputs of the new frame's places."""

    def __init__(self, prior: FactoredPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(
        self, codes: Tensor, actions: Tensor, has_action: Tensor, status: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Read a window (B, W, ...) whose last action is that of this step.

        Returns:
            summary (B, D), condition (B, C), hazards (B,), status logits (B, bins or 1), place inputs (n, B, G, D).
        """
        prior = self.prior
        places, summary, condition = prior.encode_context(Context(codes, actions, has_action, status))
        place_inputs = prior.decoder_inputs(places)  # (B, P, D)
        place_inputs = rearrange(place_inputs, "b (n g) d -> n b g d", n=len(prior.order.group_slices))
        hazards = prior.heads.end_logits(summary).sigmoid()
        return summary, condition, hazards, prior.heads.status_logits(summary), place_inputs


class FactoredFrameCondition(nn.Module):
    """The condition of a new frame: gain and bias of the LayerNorms of all decoder layers."""

    def __init__(self, prior: FactoredPrior) -> None:
        super().__init__()
        self.heads = prior.heads
        self.blocks = prior.decoder_blocks

    def forward(self, condition: Tensor, terminations: Tensor, status: Tensor) -> Tensor:
        """(B, C), (B,) bool, (B,) int64 -> affines (B, 1, 4*L*D)."""
        return _affines(self.blocks, condition + self.heads.embed_outcome(terminations, status))


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
        self.num_kv_heads = num_kv_heads(prior)

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
        affines = torch.cat([_affines(transformer.blocks, condition), last], -1)
        place_inputs = transformer.position_inputs(codes[:, None], times[:, None])[:, 0].transpose(0, 1)[:, :, None]
        if transformer.rotary is None:
            return affines, place_inputs
        angles = transformer.rotary.cos_sin(times[:, None])[:, :, :, 0]  # (2, 2, B, S, d/2)
        of_queries = angles[0].repeat(1, 1, 1, 2 * self.num_heads)
        of_keys = angles[1].repeat(1, 1, 1, 2 * self.num_kv_heads)
        return affines, place_inputs, rearrange(torch.cat([of_queries, of_keys], -1), "c b s d -> s c b 1 d")


class Reward(nn.Module):
    """The reward of a step, in the environment's units."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.heads = prior.heads

    def forward(self, summary: Tensor, terminations: Tensor, codes: Tensor) -> Tensor:
        """(B, D), (B,) bool, (B, h, w) int64 with V where the step has no frame -> (B,)."""
        return self.heads.unstandardise_rewards(self.heads.predict_rewards(summary, terminations, codes))


class Decoder(nn.Module):
    """The tokenizer's decoder: codes to pixels."""

    def __init__(self, tokenizer: FrameTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, codes: Tensor) -> Tensor:
        """(B, h, w) int64 -> (B, H, W, 3) uint8."""
        return self.tokenizer.decode_units(codes)


def _affines(blocks: nn.ModuleList, condition: Tensor) -> Tensor:
    """Gain and bias of both LayerNorms of each layer under a condition: (B, C) -> (B, 1, 4*L*D)."""
    affines: list[Tensor] = []
    for block in blocks:
        assert isinstance(block, FactoredBlock | FlatBlock)
        for norm in (block.norm_attention, block.norm_feedforward):
            affines += norm.gain_and_bias(condition)
    return torch.cat(affines, -1)[:, None]
