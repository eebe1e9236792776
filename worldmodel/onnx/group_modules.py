"""The module that predicts the codes of one group of places; it becomes the ONNX file `group.onnx`.

A frame is sampled group by group. The cache of keys and values is stored outside: the module gets all of it and returns
only the keys and values of the new places.

Shapes: B rows, P places, n groups of G places each (P = n*G), V codes in the codebook, D width, L decoder layers, H
heads, d head width, F heads of keys and values with E = F*d, N slots of the cache.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.prior.factored.factored_layers import FactoredBlock
from worldmodel.prior.factored.factored_prior import FactoredPrior
from worldmodel.prior.flat.flat_layers import FlatBlock
from worldmodel.prior.flat.flat_prior import FlatPrior
from worldmodel.prior.interface import Prior


def num_kv_heads(prior: Prior) -> int:
    """F, the heads of keys and values of a prior's decoder layers."""
    config = prior.config
    return (config.num_kv_heads if isinstance(prior, FlatPrior) else 0) or config.num_heads


class GroupLayer(nn.Module):
    """A decoder layer whose weights are arranged for few operations.

    One matrix product gives queries (scaled), keys and values. With rotary positions it also gives the queries and keys
    rotated by a quarter turn, so that a rotation is the sum of two products.

    Args:
        block: the layer whose weights are taken.
        num_heads: H.
        num_kv_heads: F, divides H; fewer than H only for groups of one place.
        rotary: whether queries and keys are rotated.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, block: FactoredBlock | FlatBlock, num_heads: int, num_kv_heads: int, rotary: bool) -> None:
        super().__init__()
        attention = block if isinstance(block, FlatBlock) else block.attention
        self.num_heads, self.num_kv_heads, self.rotary = num_heads, num_kv_heads, rotary
        self.out, self.widen, self.narrow = attention.out_proj, block.up_proj, block.down_proj
        width = attention.out_proj.in_features
        self.head_dim = width // num_heads
        rotated_dim = width + num_kv_heads * self.head_dim  # D + E
        qkv = attention.qkv_proj
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
        prior: factored or flat. The flat prior's groups are its S positions, the last of which predicts nothing.
    """

    embeddings: Tensor
    place_bias: Tensor

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.rotary = False
        if isinstance(prior, FlatPrior):
            transformer = prior.transformer
            blocks, self.logits, group = transformer.blocks, transformer.code_head, 1
            embeddings = torch.cat([transformer.code_embed.weight[:-1], transformer.start_token[None]])
            place_bias, self.rotary = F.pad(transformer.place_bias, (0, 0, 0, 1)), transformer.rotary is not None
        else:
            assert isinstance(prior, FactoredPrior)
            blocks, self.logits, group = prior.decoder_blocks, prior.code_head, prior.order.group_slices[0].stop
            embeddings, place_bias = prior.previous_group_embed.weight.data, prior.place_bias.data
        self.is_flat = isinstance(prior, FlatPrior)
        num_heads, kv_heads = prior.config.num_heads, num_kv_heads(prior)
        self.layers = nn.ModuleList(
            GroupLayer(cast(FactoredBlock | FlatBlock, block), num_heads, kv_heads, self.rotary) for block in blocks
        )
        self.register_buffer("embeddings", embeddings.detach().clone())
        self.register_buffer("place_bias", place_bias.detach().unflatten(0, (-1, group)).clone())  # (n, G, V)

    def forward(
        self, group_index: Tensor, previous_codes: Tensor, place_inputs: Tensor, affines: Tensor, *more: Tensor
    ) -> tuple[Tensor, ...]:
        """Predict the codes of a group.

        Args:
            group_index: () int64.
            previous_codes: (B, G) int64, the codes of the previous group; V for the first.
            place_inputs: (B, G, D).
            affines: (B, 1, 4*L*D), gain and bias of both LayerNorms of each layer, and of the flat prior's last.
            more: with rotary positions the rotary factors (2, B, 1, D + E); then, if there are slots, the slot mask
                (B, 1, 1, N), 0 where a slot is visible and far below 0 where it is not, and of each layer keys
                (B, F, d, N) and values (B, F, N, d).

        Returns:
            logits (B, G, V); the frame summary (B, D) of the flat prior; of each layer the new keys (B, F, d, G) and
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
        if self.is_flat:
            x = x * split[-2] + split[-1]
        logits = self.logits(x) + self.place_bias[group_index]
        return (logits, *((x[:, 0],) if self.is_flat else ()), *new_pairs)
