"""The module that predicts the codes of one group of places; it becomes the ONNX file `group.onnx`.

A frame is sampled group by group. The cache of keys and values is stored outside: the module gets all of it and returns
only the keys and values of the new places.

Shapes: B rows, P places, n groups of G places each (P = n*G), V codes in the codebook, D width, L decoder layers, H
heads, d head width, F heads of keys and values with E = F*d, N slots of the cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class LayerWeights(NamedTuple):
    """The linear layers of a decoder layer: attention, then feed-forward."""

    qkv_proj: nn.Linear
    out_proj: nn.Linear
    up_proj: nn.Linear
    down_proj: nn.Linear


@dataclass(frozen=True)
class GroupWeights:
    """The weights that predict a group of codes.

    Attributes:
        layers: of the decoder.
        num_heads: H.
        num_kv_heads: F.
        code_head: from the width to the V logits.
        embeddings: (V + 1, D), of the codes of the previous group; the last row for the first group.
        place_bias: (P, V), or with more rows for groups that are run and sampled nothing from.
        group: G.
        has_rotary: whether queries and keys are rotated.
        has_frame_summary: whether a conditional LayerNorm follows the layers, whose output summarises the frame.
    """

    layers: list[LayerWeights]
    num_heads: int
    num_kv_heads: int
    code_head: nn.Linear
    embeddings: Tensor
    place_bias: Tensor
    group: int
    has_rotary: bool = False
    has_frame_summary: bool = False


class GroupLayer(nn.Module):
    """A decoder layer whose weights are arranged for few operations.

    One matrix product gives queries (scaled), keys and values. With rotary positions it also gives the queries and keys
    rotated by a quarter turn, so that a rotation is the sum of two products.

    Args:
        layer: whose weights are taken.
        num_heads: H.
        num_kv_heads: F, divides H; fewer than H only for groups of one place.
        rotary: whether queries and keys are rotated.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: LayerWeights, num_heads: int, num_kv_heads: int, rotary: bool) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.rotary = num_heads, num_kv_heads, rotary
        self.out, self.widen, self.narrow = layer.out_proj, layer.up_proj, layer.down_proj
        width = layer.out_proj.in_features
        self.head_dim = width // num_heads
        rotated_dim = width + num_kv_heads * self.head_dim  # D + E
        qkv = layer.qkv_proj
        rows = torch.cat([qkv.weight, qkv.bias[:, None]], 1).detach().clone()  # (D + 2*E, D+1)
        rows[:width] /= math.sqrt(self.head_dim)
        if rotary:
            halves = rearrange(rows[:rotated_dim], "(x two e) c -> two x e c", two=2, e=self.head_dim // 2)
            quarter = rearrange(torch.stack([-halves[1], halves[0]]), "two x e c -> (x two e) c")
            rows = torch.cat([rows[:rotated_dim], quarter, rows[rotated_dim:]])  # (2*D + 3*E, D+1)
        self.register_buffer("weight", rows[:, :-1].contiguous())
        self.register_buffer("bias", rows[:, -1].contiguous())

    def forward(
        self, x: Tensor, affines: list[Tensor], rotary: Tensor | None, slot_mask: Tensor | None, cache: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One layer over G places.

        Args:
            x: (B, G, D).
            affines: four of (B, 1, D): gain, bias, gain, bias.
            rotary: cosines and sines (2, B, 1, D + E), or None.
            slot_mask: (B, 1, 1, N), added to the attention scores of the slots, or None where there are no slots.
            cache: keys (B, F, d, N) and values (B, F, N, d), or nothing.

        Returns:
            (B, G, D), and the new keys (B, F, d, G) and values (B, F, G, d).
        """
        group, width = x.shape[1], x.shape[2]
        q, k, v = self._project(F.layer_norm(x, (width,)) * affines[0] + affines[1], rotary)
        scores = torch.matmul(q, k)  # (B, H, G, G), or (B, F, H/F, 1)
        if slot_mask is None:
            y = torch.matmul(scores.softmax(-1), v)
        else:
            keys, values = cache
            slots = keys.shape[-1]
            weights = torch.cat([torch.matmul(q, keys) + slot_mask, scores], -1).softmax(-1)  # (..., N + G)
            old, new = weights.split([slots, group], -1)
            y = torch.matmul(old, values) + torch.matmul(new, v)
        y = y.reshape(-1, 1, width) if group == 1 else rearrange(y, "b h g d -> b g (h d)")
        x = x + self.out(y)
        normal = F.layer_norm(x, (width,)) * affines[2] + affines[3]
        return x + self.narrow(F.gelu(self.widen(normal), approximate="tanh")), k, v

    def _project(self, x: Tensor, rotary: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of G places: (B, G, D) -> (B, H, G, d), (B, F, d, G), (B, F, G, d).

        A group of one place has its queries as (B, F, H/F, d): the heads that share keys and values take the axis of
        the places.
        """
        group, width, heads = x.shape[1], x.shape[2], self.num_kv_heads
        kv_dim = heads * self.head_dim  # E
        qkv = F.linear(x, self.weight, self.bias)
        if rotary is not None:
            straight, quarter, v = qkv.split([width + kv_dim, width + kv_dim, kv_dim], -1)
            q, k = (straight * rotary[0] + quarter * rotary[1]).split([width, kv_dim], -1)
        else:
            q, k, v = qkv.split([width, kv_dim, kv_dim], -1)
        if group == 1:
            q = q.reshape(-1, heads, self.num_heads // heads, self.head_dim)
            return q, k.reshape(-1, heads, self.head_dim, 1), v.reshape(-1, heads, 1, self.head_dim)
        q, k, v = (y.reshape(-1, group, self.num_heads, self.head_dim) for y in (q, k, v))
        return q.transpose(1, 2), k.permute(0, 2, 3, 1), v.transpose(1, 2)


class GroupLogits(nn.Module):
    """One group of places: from the codes of the previous group to the logits of its codes.

    Args:
        weights: of the prior.
    """

    embeddings: Tensor
    place_bias: Tensor

    def __init__(self, weights: GroupWeights) -> None:
        super().__init__()
        self.rotary, self.has_frame_summary = weights.has_rotary, weights.has_frame_summary
        self.logits = weights.code_head
        self.layers = nn.ModuleList(
            GroupLayer(layer, weights.num_heads, weights.num_kv_heads, weights.has_rotary) for layer in weights.layers
        )
        self.register_buffer("embeddings", weights.embeddings.detach().clone())
        place_bias = weights.place_bias.detach().unflatten(0, (-1, weights.group))  # (n, G, V)
        self.register_buffer("place_bias", place_bias.clone())

    def forward(
        self, group_index: Tensor, previous_codes: Tensor, place_inputs: Tensor, affines: Tensor, *more: Tensor
    ) -> tuple[Tensor, ...]:
        """Predict the codes of a group.

        Args:
            group_index: () int64.
            previous_codes: (B, G) int64, the codes of the previous group; V for the first.
            place_inputs: (B, G, D).
            affines: (B, 1, 4*L*D), gain and bias of both LayerNorms of each layer; (B, 1, (4*L + 2)*D) with those of
                the LayerNorm of the frame summary.
            more: with rotary positions the rotary factors (2, B, 1, D + E); then, if there are slots, the slot mask
                (B, 1, 1, N), 0 where a slot is visible and far below 0 where it is not, and of each layer keys
                (B, F, d, N) and values (B, F, N, d).

        Returns:
            logits (B, G, V); the frame summary (B, D) if there is one; of each layer the new keys (B, F, d, G) and
            values (B, F, G, d).
        """
        caches, new_pairs = list(more), []
        rotary = caches.pop(0) if self.rotary else None
        slot_mask = caches.pop(0) if caches else None
        x = F.embedding(previous_codes, self.embeddings) + place_inputs  # (B, G, D)
        width = x.shape[-1]
        split = affines.split(width, -1)
        for i, layer in enumerate(self.layers):
            x, k, v = layer(x, split[4 * i : 4 * i + 4], rotary, slot_mask, caches[2 * i : 2 * i + 2])
            new_pairs += [k, v]
        x = F.layer_norm(x, (width,))
        if self.has_frame_summary:
            x = x * split[-2] + split[-1]
        logits = self.logits(x) + self.place_bias[group_index]
        return (logits, *((x[:, 0],) if self.has_frame_summary else ()), *new_pairs)


def layer_affines(blocks: Iterable[Any], condition: Tensor) -> Tensor:
    """Gain and bias of both LayerNorms of each layer under a condition: (B, C) -> (B, 1, 4*L*D).

    Args:
        blocks: layers with conditional LayerNorms `norm_attention` and `norm_feedforward`.
        condition: (B, C).
    """
    affines: list[Tensor] = []
    for block in blocks:
        for norm in (block.norm_attention, block.norm_feedforward):
            affines += norm.gain_and_bias(condition)
    return torch.cat(affines, -1)[:, None]
