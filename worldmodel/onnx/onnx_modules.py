"""A world's step as a few functions of tensors, each of which becomes one ONNX file; `plain.world` calls them.

What is drawn (end, status, codes) is drawn between them, and the cache of keys and values lies outside: `write` is
handed the whole of it and gives back only what the new places add.

Shapes: B rows, W frames of a context, h w code grid, P = h*w places, n groups of G places that are written one after
the other (P = n*G), V codes in the book, D width, C condition width, L layers that write, H heads, d numbers a head,
F heads of keys and values with E = F*d numbers, N slots of the cache, M frames of memory, S = P + 1 positions of a
frame.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.prior.context import Context
from worldmodel.prior.factored.factored_layers import FactoredBlock
from worldmodel.prior.factored.factored_prior import FactoredPrior
from worldmodel.prior.flat.flat_layers import FlatBlock
from worldmodel.prior.flat.flat_prior import FlatPrior
from worldmodel.prior.interface import Prior
from worldmodel.tokenizer import FrameTokenizer


class FactoredOutcome(nn.Module):
    """The trunk: what a window and the action now taken say of the step, and what the new frame is written from."""

    def __init__(self, prior: FactoredPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(
        self, codes: Tensor, actions: Tensor, has_action: Tensor, status: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Read a window, (B, W, ...), whose last action is the one now taken.

        Returns:
            summary (B, D), condition (B, C), hazards (B,), status logits (B, bins or 1), base (n, B, G, D).
        """
        prior = self.prior
        places, summary, condition = prior.encode_context(Context(codes, actions, has_action, status))
        base = prior.decoder_inputs(places)
        base = rearrange(base, "b (n g) d -> n b g d", n=len(prior.order.group_slices))
        hazards = prior.heads.end_logits(summary).sigmoid()
        return summary, condition, hazards, prior.heads.status_logits(summary), base


class FactoredTell(nn.Module):
    """What the writing layers are told of the step: gain and bias of their LayerNorms."""

    def __init__(self, prior: FactoredPrior) -> None:
        super().__init__()
        self.heads = prior.heads
        self.blocks = prior.decoder_blocks

    def forward(self, condition: Tensor, terminations: Tensor, status: Tensor) -> Tensor:
        """(B, C), (B,) bool, (B,) int64 -> affines (B, 1, 4*L*D)."""
        return _affines(self.blocks, condition + self.heads.embed_outcome(terminations, status))


class FlatBegin(nn.Module):
    """Read a context as a clip of its own: `FlatPrior.init_state`, its loops and branches laid out for a graph."""

    def __init__(self, prior: FlatPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(
        self, codes: Tensor, actions: Tensor, has_action: Tensor, status: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A context (B, W, ...) -> keys (B, L, F, d, W*S), values (B, L, F, W*S, d), summary (B, D)."""
        prior, count = self.prior, self.prior.window
        known = torch.cat([torch.zeros_like(has_action[:, :1]), has_action[:, 1:]], 1)
        seen = codes[:, :, 0, 0] != prior.num_codes  # (B, W)
        times = known.sum(1)[:, None] - torch.arange(count - 1, -1, -1)
        unknown = torch.full_like(times[:, 1:], prior.config.status.num_bins)
        told = torch.cat([unknown, status[:, None]], 1)
        outcome = prior.heads.embed_outcome(torch.zeros_like(times, dtype=torch.bool).flatten(), told.flatten())
        condition = prior.action_encoder(actions, known) + outcome.reshape(-1, count, outcome.shape[-1])
        _, z, pairs = prior.transformer(codes, seen, condition, times)
        summary = prior.initial_summary.expand_as(z[:, 0])
        for t in range(count):
            summary = torch.where(seen[:, t, None], z[:, t], summary)
        keys, values = (torch.stack(of_layers, 1) for of_layers in zip(*pairs, strict=True))  # (B, L, F, W*S, d)
        return keys.transpose(-1, -2), values, summary


class FlatOutcome(nn.Module):
    """What the frame before and the action now taken say of the step."""

    def __init__(self, prior: FlatPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, before: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """z of the frame before (B, D) and actions -> summary (B, D), condition (B, C), hazards (B,), status logits."""
        prior = self.prior
        taken = prior.action_encoder(actions[:, None], torch.ones_like(before[:, :1], dtype=torch.bool))[:, 0]
        summary = prior.transition(torch.cat([before, taken], -1))
        return summary, taken, prior.heads.end_logits(summary).sigmoid(), prior.heads.status_logits(summary)


class FlatTell(nn.Module):
    """What the positions of a frame are told and given, and how their queries and keys are turned."""

    def __init__(self, prior: FlatPrior) -> None:
        super().__init__()
        self.heads, self.network, self.num_heads = prior.heads, prior.transformer, prior.config.num_heads
        self.kv_heads = kv_heads_of(prior)

    def forward(
        self, condition: Tensor, terminations: Tensor, status: Tensor, codes: Tensor, times: Tensor
    ) -> tuple[Tensor, ...]:
        """The condition (B, C), the outcome (B,), the codes of the frame before (B, h, w), the frame's time (B,).

        Returns:
            affines (B, 1, (4*L + 2)*D), those of the last LayerNorm at the end; base (S, B, 1, D); with rotary
            positions turns (S, 2, B, 1, D + E), cosines and sines for every number of all queries and keys.
        """
        network, told = self.network, condition + self.heads.embed_outcome(terminations, status)
        last = torch.cat(network.norm.gain_and_bias(told), -1)[:, None]
        affines = torch.cat([_affines(network.blocks, told), last], -1)
        base = network.position_inputs(codes[:, None], times[:, None])[:, 0].transpose(0, 1)[:, :, None]
        if network.rotary is None:
            return affines, base
        turns = network.rotary.cos_sin(times[:, None])[:, :, :, 0]  # (2, 2, B, S, d/2)
        of_query, of_key = turns[0].repeat(1, 1, 1, 2 * self.num_heads), turns[1].repeat(1, 1, 1, 2 * self.kv_heads)
        return affines, base, rearrange(torch.cat([of_query, of_key], -1), "c b s d -> s c b 1 d")


def _affines(blocks: nn.ModuleList, told: Tensor) -> Tensor:
    """Gain and bias of both LayerNorms of each layer under what rows are told: (B, C) -> (B, 1, 4*L*D)."""
    found: list[Tensor] = []
    for block in blocks:
        assert isinstance(block, FactoredBlock | FlatBlock)
        for norm in (block.norm_attention, block.norm_feedforward):
            found += norm.gain_and_bias(told)
    return torch.cat(found, -1)[:, None]


def kv_heads_of(prior: Prior) -> int:
    """F, the heads of keys and values of the layers that write."""
    config = prior.config
    return (config.num_kv_heads if isinstance(prior, FlatPrior) else 0) or config.num_heads


class GroupLayer(nn.Module):
    """A layer that writes, its weights laid out for few operations.

    One product gives queries (scaled), keys and values, and with rotary positions the queries and keys that stand a
    quarter turn further on: a turn is then a sum of two products.

    Args:
        block: whose weights.
        num_heads: H.
        kv_heads: F, divides H; fewer are for places written one by one.
        rotary: whether queries and keys are turned.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, block: FactoredBlock | FlatBlock, num_heads: int, kv_heads: int, rotary: bool) -> None:
        super().__init__()
        attention = block if isinstance(block, FlatBlock) else block.attention
        self.num_heads, self.kv_heads, self.rotary = num_heads, kv_heads, rotary
        self.out, self.widen, self.narrow = attention.out_proj, block.up_proj, block.down_proj
        width = attention.out_proj.in_features
        self.d = width // num_heads
        turned = width + kv_heads * self.d  # D + E
        rows = (
            torch.cat([attention.qkv_proj.weight, attention.qkv_proj.bias[:, None]], 1).detach().clone()
        )  # (D + 2*E, D+1)
        rows[:width] /= math.sqrt(self.d)
        if rotary:
            halves = rearrange(rows[:turned], "(x two e) c -> two x e c", two=2, e=self.d // 2)
            quarter = rearrange(torch.stack([-halves[1], halves[0]]), "two x e c -> (x two e) c")
            rows = torch.cat([rows[:turned], quarter, rows[turned:]])  # (2*D + 3*E, D+1)
        self.register_buffer("weight", rows[:, :-1].contiguous())
        self.register_buffer("bias", rows[:, -1].contiguous())

    def forward(
        self, x: Tensor, affines: list[Tensor], turns: Tensor | None, unseen: Tensor | None, cache: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One layer over G places.

        Args:
            x: (B, G, D).
            affines: four of (B, 1, D): gain, bias, gain, bias.
            turns: (2, B, 1, D + E), or None.
            unseen: (B, 1, 1, N), or None where there are no slots.
            cache: keys (B, F, d, N) and values (B, F, N, d), or nothing.

        Returns:
            (B, G, D), and the new keys (B, F, d, G) and values (B, F, G, d).
        """
        group, width, heads = x.shape[1], x.shape[2], self.kv_heads
        narrow = heads * self.d  # E
        qkv = F.linear(F.layer_norm(x, (width,)) * affines[0] + affines[1], self.weight, self.bias)
        if turns is not None:
            straight, quarter, v = qkv.split([width + narrow, width + narrow, narrow], -1)
            q, k = (straight * turns[0] + quarter * turns[1]).split([width, narrow], -1)
        else:
            q, k, v = qkv.split([width, narrow, narrow], -1)
        if group == 1:  # the heads that share keys and values stand where places of a group would
            q = q.reshape(-1, heads, self.num_heads // heads, self.d)
            k, v = k.reshape(-1, heads, self.d, 1), v.reshape(-1, heads, 1, self.d)
        else:
            q, k, v = (y.reshape(-1, group, self.num_heads, self.d) for y in (q, k, v))
            q, k, v = q.transpose(1, 2), k.permute(0, 2, 3, 1), v.transpose(1, 2)
        scores = torch.matmul(q, k)  # (B, H, G, G), or (B, F, H/F, 1)
        if unseen is None:
            y = torch.matmul(scores.softmax(-1), v)
        else:
            keys, values = cache
            slots = keys.shape[-1]
            shares = torch.cat([torch.matmul(q, keys) + unseen, scores], -1).softmax(-1)  # (..., N + G)
            old, new = shares.split([slots, group], -1)
            y = torch.matmul(old, values) + torch.matmul(new, v)
        y = y.reshape(-1, 1, width) if group == 1 else rearrange(y, "b h g d -> b g (h d)")
        x = x + self.out(y)
        normal = F.layer_norm(x, (width,)) * affines[2] + affines[3]
        return x + self.narrow(F.gelu(self.widen(normal), approximate="tanh")), k, v


class Write(nn.Module):
    """One group of places: from what was written before it to the logits of its codes.

    Args:
        prior: either prior. The flat one writes its S positions one by one, the last predicting nothing.
    """

    table: Tensor
    prejudice: Tensor

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.rotary = False
        if isinstance(prior, FlatPrior):
            network = prior.transformer
            blocks, self.logits, group = network.blocks, network.code_head, 1
            table = torch.cat([network.code_embed.weight[:-1], network.start_token[None]])
            prejudice, self.rotary = F.pad(network.place_bias, (0, 0, 0, 1)), network.rotary is not None
        else:
            assert isinstance(prior, FactoredPrior)
            blocks, self.logits, group = prior.decoder_blocks, prior.code_head, prior.order.group_slices[0].stop
            table, prejudice = prior.previous_group_embed.weight.data, prior.place_bias.data
        self.is_flat = isinstance(prior, FlatPrior)
        heads, kv_heads = prior.config.num_heads, kv_heads_of(prior)
        self.layers = nn.ModuleList(
            GroupLayer(cast(FactoredBlock | FlatBlock, block), heads, kv_heads, self.rotary) for block in blocks
        )
        self.register_buffer("table", table.detach().clone())
        self.register_buffer("prejudice", prejudice.detach().unflatten(0, (-1, group)).clone())  # (n, G, V)

    def forward(self, at: Tensor, before: Tensor, base: Tensor, affines: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        """Write a group.

        Args:
            at: () int64, which one.
            before: (B, G) int64, the codes of the group before; V for the first.
            base: (B, G, D), what its places are given.
            affines: (B, 1, 4*L*D), gain and bias of both LayerNorms of each layer, and of the flat prior's last.
            more: with rotary positions turns (2, B, 1, D + E); then, if there are slots, unseen (B, 1, 1, N), 0 where
                a slot is seen and far below 0 where not, and of each layer keys (B, F, d, N) and values (B, F, N, d).

        Returns:
            logits (B, G, V); z (B, D) of the flat prior; of each layer the new keys (B, F, d, G) and values
            (B, F, G, d).
        """
        given, news = list(more), []
        turns = given.pop(0) if self.rotary else None
        unseen = given.pop(0) if given else None
        x = F.embedding(before, self.table) + base  # (B, G, D)
        width = x.shape[-1]
        told = affines.split(width, -1)
        for i, layer in enumerate(self.layers):
            x, k, v = layer(x, told[4 * i : 4 * i + 4], turns, unseen, given[2 * i : 2 * i + 2])
            news += [k, v]
        x = F.layer_norm(x, (width,))
        if self.is_flat:
            x = x * told[-2] + told[-1]
        logits = self.logits(x) + self.prejudice[at]
        return (logits, *((x[:, 0],) if self.is_flat else ()), *news)


class Reward(nn.Module):
    """The reward of a step, in the environment's units."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.heads = prior.heads

    def forward(self, summary: Tensor, terminations: Tensor, codes: Tensor) -> Tensor:
        """(B, D), (B,) bool, (B, h, w) int64 with V where the step has no picture -> (B,)."""
        return self.heads.unstandardise_rewards(self.heads.predict_rewards(summary, terminations, codes))


class Pixels(nn.Module):
    """Codes to pixels."""

    def __init__(self, tokenizer: FrameTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, codes: Tensor) -> Tensor:
        """(B, h, w) int64 -> (B, H, W, 3) uint8."""
        return self.tokenizer.decode_units(codes)
