"""A world's step as a few functions of tensors, each of which becomes one ONNX file; `plain.world` calls them.

What is drawn (end, status, codes) is drawn between them, and the cache of keys and values lies outside: `write` is
handed the whole of it and gives back only what the new places add.

Shapes: B rows, W frames of a context, h w code grid, P = h*w places, n groups of G places that are written one after
the other (P = n*G), V codes in the book, D width, C condition width, L layers that write, H heads, d numbers a head,
N slots of the cache, M frames of memory, S = P + 1 positions of a frame, E = d/2.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.prior.attention import FrameBlock
from worldmodel.prior.factored import FactoredPrior
from worldmodel.prior.flat import FlatPrior
from worldmodel.prior.interface import Context, Prior
from worldmodel.prior.layers import Block
from worldmodel.prior.rotary import turn
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
        places, summary, condition = prior._trunk(Context(codes, actions, has_action, status))
        base = prior.bridge(places) + prior.places
        base = rearrange(base, "b (n g) d -> n b g d", g=prior.group)
        hazards = prior.heads.end_logits(summary).sigmoid()
        return summary, condition, hazards, prior.heads.status_logits(summary), base


class FactoredTell(nn.Module):
    """What the writing layers are told of the step: gain and bias of their LayerNorms."""

    def __init__(self, prior: FactoredPrior) -> None:
        super().__init__()
        self.heads = prior.heads
        self.blocks = prior.decoder_blocks

    def forward(self, condition: Tensor, terminations: Tensor, status: Tensor) -> Tensor:
        """(B, C), (B,) bool, (B,) int64 -> affines (L, 4, B, 1, D)."""
        told = condition + self.heads.condition(terminations, status)
        affines = []
        for block in (cast(Block, block) for block in self.blocks):
            for norm in (block.norm_attention, block.norm_feedforward):
                affines += norm.affine_of(told)
        return torch.stack(affines).unflatten(0, (-1, 4))[:, :, :, None]


class FlatBegin(nn.Module):
    """Read a context as a clip of its own: `FlatPrior.init_state`, its loops and branches laid out for a graph."""

    def __init__(self, prior: FlatPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(
        self, codes: Tensor, actions: Tensor, has_action: Tensor, status: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A context (B, W, ...) -> keys (B, L, H, d, W*S), values (B, L, H, W*S, d), summary (B, D)."""
        prior, count = self.prior, self.prior.window
        known = torch.cat([torch.zeros_like(has_action[:, :1]), has_action[:, 1:]], 1)
        seen = codes[:, :, 0, 0] != prior.num_codes  # (B, W)
        times = known.sum(1)[:, None] - torch.arange(count - 1, -1, -1)
        unknown = torch.full_like(times[:, 1:], prior.config.status.num_bins)
        told = torch.cat([unknown, status[:, None]], 1)
        outcome = prior.heads.condition(torch.zeros_like(times, dtype=torch.bool).flatten(), told.flatten())
        condition = prior.actions(actions, known) + outcome.reshape(-1, count, outcome.shape[-1])
        _, z, cache = prior.network.read(codes, seen, condition, times)
        summary = prior.nothing.expand_as(z[:, 0])
        for t in range(count):
            summary = torch.where(seen[:, t, None], z[:, t], summary)
        keys, values = cache.unbind(2)  # (B, L, H, W*S, d) each
        return keys.transpose(-1, -2), values, summary


class FlatOutcome(nn.Module):
    """What the frame before and the action now taken say of the step."""

    def __init__(self, prior: FlatPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, before: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """z of the frame before (B, D) and actions -> summary (B, D), condition (B, C), hazards (B,), status logits."""
        prior = self.prior
        taken = prior.actions(actions[:, None], torch.ones_like(before[:, :1], dtype=torch.bool))[:, 0]
        summary = prior.act(torch.cat([before, taken], -1))
        return summary, taken, prior.heads.end_logits(summary).sigmoid(), prior.heads.status_logits(summary)


class FlatTell(nn.Module):
    """What the positions of a frame are told and given, and how their queries and keys are turned."""

    def __init__(self, prior: FlatPrior) -> None:
        super().__init__()
        self.heads, self.network = prior.heads, prior.network

    def forward(
        self, condition: Tensor, terminations: Tensor, status: Tensor, codes: Tensor, times: Tensor
    ) -> tuple[Tensor, ...]:
        """The condition (B, C), the outcome (B,), the codes of the frame before (B, h, w), the frame's time (B,).

        Returns:
            affines (L, 4, B, 1, D), last (2, B, 1, D), base (S, B, 1, D); with rotary positions turns
            (S, 2, 2, B, 1, 1, E), of query and key, cosines and sines.
        """
        network, told = self.network, condition + self.heads.condition(terminations, status)
        affines = []
        for block in (cast(FrameBlock, block) for block in network.blocks):
            for pair in block.affines(told):
                affines += pair
        found = [
            torch.stack(affines).unflatten(0, (-1, 4))[:, :, :, None],
            torch.stack(network.norm.affine_of(told))[:, :, None],
            network._given(codes[:, None], times[:, None])[:, 0].transpose(0, 1)[:, :, None],
        ]
        if network.rotary is not None:
            turns = network.rotary.turns(times[:, None])[:, :, :, 0]  # (2, 2, B, S, E)
            found.append(rearrange(turns, "a c b s e -> s a c b 1 1 e"))
        return tuple(found)


class Write(nn.Module):
    """One group of places: from what was written before it to the logits of its codes.

    Args:
        prior: either prior. The flat one writes its S positions one by one, the last predicting nothing.
    """

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        if isinstance(prior, FlatPrior):
            network = prior.network
            self.blocks, self.logits = network.blocks, network.logits
            table, prejudice = torch.cat([network.embed.weight[:-1], network.start[None]]), network.prejudice
            self.group, self.num_heads, self.rotary = 1, prior.config.num_heads, network.rotary is not None
            prejudice = F.pad(prejudice, (0, 0, 0, 1))
        else:
            assert isinstance(prior, FactoredPrior)
            self.blocks, self.logits = prior.decoder_blocks, prior.logits
            table, prejudice = prior.written.weight, prior.prejudice
            self.group, self.num_heads, self.rotary = prior.group, prior.config.num_heads, False
        self.is_flat = isinstance(prior, FlatPrior)
        self.register_buffer("table", table.detach().clone())
        self.register_buffer("prejudice", prejudice.detach().unflatten(0, (-1, self.group)))  # (n, G, V)

    def forward(
        self, at: Tensor, before: Tensor, base: Tensor, affines: Tensor, *more: Tensor
    ) -> tuple[Tensor, ...]:
        """Write a group.

        Args:
            at: () int64, which one.
            before: (B, G) int64, the codes of the group before; V for the first.
            base: (B, G, D), what its places are given.
            affines: (L, 4, B, 1, D), gain and bias of both LayerNorms of each layer.
            more: of the flat prior first last (2, B, 1, D) and, with rotary positions, turns (2, 2, B, 1, 1, E); then,
                if there are slots, bias (B, 1, 1, N), 0 where a slot is seen and far below 0 where not, and of
                each layer keys (B, H, d, N) and values (B, H, N, d).

        Returns:
            logits (B, G, V); z (B, D) of the flat prior; of each layer the new keys (B, H, d, G) and values (B, H, G, d).
        """
        given, caches = list(more), []
        last = given.pop(0) if self.is_flat else None
        turns = given.pop(0) if self.rotary else None
        bias = given.pop(0) if given else None
        x = F.embedding(before, self.table) + base  # (B, G, D)
        for i, block in enumerate(self.blocks):
            cache = given[2 * i : 2 * i + 2]
            x, k, v = self._layer(block, x, affines[i], turns, bias, cache)
            caches += [k, v]
        x = F.layer_norm(x, x.shape[-1:])
        if last is not None:
            x = x * last[0] + last[1]
        logits = self.logits(x) + self.prejudice[at]
        return (logits, *((x[:, 0],) if self.is_flat else ()), *caches)

    def _layer(
        self, block: nn.Module, x: Tensor, affines: Tensor, turns: Tensor | None, bias: Tensor | None, cache: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One layer; new keys are returned with their numbers in rows, as the cache has them."""
        if isinstance(block, FrameBlock):
            qkv_layer, out = block.qkv, block.out
        else:
            assert isinstance(block, Block)
            qkv_layer, out = block.attention.qkv, block.attention.out
        normal = F.layer_norm(x, x.shape[-1:]) * affines[0] + affines[1]
        q, k, v = rearrange(qkv_layer(normal), "b g (s h d) -> s b h g d", s=3, h=self.num_heads).unbind(0)
        if turns is not None:
            q, k = turn(q, turns[0]), turn(k, turns[1])
        k = k.transpose(-1, -2)  # (B, H, d, G)
        scale = 1 / math.sqrt(q.shape[-1])
        scores = torch.matmul(q, k) * scale  # (B, H, G, G)
        if bias is None:
            y = torch.matmul(scores.softmax(-1), v)
        else:
            keys, values = cache
            scores = torch.cat([torch.matmul(q, keys) * scale + bias, scores], -1)
            slots = keys.shape[-1]
            shares = scores.softmax(-1)  # (B, H, G, N + G)
            y = torch.matmul(shares[..., :slots], values) + torch.matmul(shares[..., slots:], v)
        x = x + out(rearrange(y, "b h g d -> b g (h d)"))
        normal = F.layer_norm(x, x.shape[-1:]) * affines[2] + affines[3]
        return x + block.narrow(F.gelu(block.widen(normal), approximate="tanh")), k, v


class Reward(nn.Module):
    """The reward of a step, in the environment's units."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.heads = prior.heads

    def forward(self, summary: Tensor, terminations: Tensor, codes: Tensor) -> Tensor:
        """(B, D), (B,) bool, (B, h, w) int64 with V where the step has no picture -> (B,)."""
        return self.heads.unscale(self.heads.rewards(summary, terminations, codes))


class Pixels(nn.Module):
    """Codes to pixels."""

    def __init__(self, tokenizer: FrameTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, codes: Tensor) -> Tensor:
        """(B, h, w) int64 -> (B, H, W, 3) uint8."""
        return self.tokenizer._decode(codes)
