"""A block of the flat prior for sampling a frame position by position: few operations, buffers written in place.

What all positions of a frame share is computed once per frame: gains and biases of the LayerNorms, rotations, weights
in the memory order in which they are read. No position allocates memory of the cache's size. Queries and keys are
rotated by one complex multiplication. For that the two numbers of a rotary pair are adjacent here
(`interleave_pairs`), while `RotaryEmbedding` has them half a head apart; products of queries and keys are the same.

Shapes: B rows, S positions per frame, N positions in the cache of which the last S are the frame's own, H heads, G
key/value heads, R = H/G query heads per key/value head, d numbers per head, E = d/2 pairs, D = H*d width, C condition
width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.prior.conditioning import ConditionalLayerNorm
from worldmodel.prior.flat.flat_layers import FlatBlock


def interleave_pairs(x: Tensor, dim: int) -> Tensor:
    """Make the numbers of each rotary pair adjacent: x[0], x[E], x[1], x[E+1], ... along an axis of d numbers.

    Args:
        x: any shape.
        dim: the axis, counted from the front.
    """
    return x.unflatten(dim, (2, -1)).transpose(dim, dim + 1).flatten(dim, dim + 1)


def complex_rotations(cos_sin: Tensor, queries_per_group: int) -> tuple[Tensor, ...]:
    """Rotations of the positions of one frame, as complex numbers.

    Args:
        cos_sin: (2, 2, B, 1, S, E), from `RotaryEmbedding.cos_sin`.
        queries_per_group: R.

    Returns:
        S tensors (B, 1, R+1, E) complex64, for the queries of a key/value head and for its key.
    """
    # (B, S, 1, E) each
    query_rotation, key_rotation = torch.complex(*cos_sin[:, :, :, 0].unbind(1))[:, :, :, None].unbind(0)
    return torch.cat([query_rotation.expand(-1, -1, queries_per_group, -1), key_rotation], 2)[:, :, None].unbind(1)


class FrameLayerNorm:
    """A conditional LayerNorm whose condition is that of one frame.

    Args:
        norm: the layer.
        condition: (B, C).
        dtype: of the output.
    """

    def __init__(self, norm: ConditionalLayerNorm, condition: Tensor, dtype: torch.dtype) -> None:
        self.gain, self.bias = (x.float() for x in norm.gain_and_bias(condition))  # (B, D)
        self.shape, self.output = (norm.width,), torch.empty_like(self.gain, dtype=dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D), overwritten by the next call."""
        return torch.addcmul(self.bias, F.layer_norm(x, self.shape), self.gain, out=self.output)


class CachedBlock:
    """A `FlatBlock` applied to one position at a time, without dropout, with keys and values from a cache.

    Args:
        block: the block.
        condition: (B, C), of the frame.
        keys: (B, G, d, N) float32; the frame's own keys are written into it.
        values: (B, G, N, d) float32; the frame's own values are written into it.
        num_positions: S.
        has_rotary: whether queries and keys are rotated.
        dtype: of the products with weights; the residual stream and the attention are float32.
    """

    def __init__(
        self,
        block: FlatBlock,
        condition: Tensor,
        keys: Tensor,
        values: Tensor,
        num_positions: int,
        has_rotary: bool,
        dtype: torch.dtype,
    ) -> None:
        rows, groups, d, _ = keys.shape
        queries_per_group = block.num_heads // groups  # R
        self.scale = 1 / math.sqrt(d)
        self.norm_attention = FrameLayerNorm(block.norm_attention, condition, dtype)
        self.norm_feedforward = FrameLayerNorm(block.norm_feedforward, condition, dtype)
        bias, weight = addmm_weights(block.qkv_proj, 1, dtype)
        self.qkv_weights = tuple(_order_by_group(x, groups, d, has_rotary) for x in (bias, weight))
        self.out_weights, self.up_weights, self.down_weights = (
            addmm_weights(layer, rows, dtype) for layer in (block.out_proj, block.up_proj, block.down_proj)
        )
        self.qkv_buffer = weight.new_empty(rows, weight.shape[1])  # of `dtype`
        self.qkv = self.qkv_buffer if dtype == torch.float32 else self.qkv_buffer.float()
        heads = self.qkv.view(rows, groups, queries_per_group + 2, d)  # queries, key, value
        self.complex_qk = torch.view_as_complex(heads[:, :, :-1].unflatten(3, (-1, 2)))  # (B, G, R+1, E)
        self.query = heads[:, :, :-2].view(rows * groups, queries_per_group, d)
        self.key, self.value = heads[:, :, -2], heads[:, :, -1]  # (B, G, d)
        self.key_cache, self.value_cache = keys.flatten(0, 1), values.flatten(0, 1)  # (B*G, d, N), (B*G, N, d)
        own = keys[..., -num_positions:].unbind(3), values[:, :, -num_positions:].unbind(2)
        self.cache_slots = list(zip(*own, strict=True))  # S pairs of key and value, (B, G, d) each
        self.attention_output = keys.new_empty(rows * groups, queries_per_group, d)
        self.merged_heads = self.attention_output.view(rows, -1)  # (B, D)
        self.hidden = weight.new_empty(rows, block.up_proj.out_features)
        self.set_cache_length(keys.shape[3])

    def set_cache_length(self, length: int) -> None:
        """From now on attend to the first `length` positions of the cache."""
        self.keys, self.values = self.key_cache[..., :length], self.value_cache[:, :length]
        self.scores = self.attention_output.new_empty(*self.attention_output.shape[:2], length)
        self.attention_weights = torch.empty_like(self.scores)

    def __call__(self, x: Tensor, position: int, mask: Tensor, rotation: Tensor | None) -> None:
        """Apply the block to the next position and store its key and value in the cache.

        Args:
            x: (B, D) float32, the residual stream, updated in place.
            position: index within the frame, 0 to S - 1.
            mask: (B*G, 1, length) float32: 0 where a position of the cache is visible, else -inf.
            rotation: (B, 1, R+1, E) complex64, from `complex_rotations`, or None.
        """
        torch.addmm(self.qkv_weights[0], self.norm_attention(x), self.qkv_weights[1], out=self.qkv_buffer)
        if self.qkv is not self.qkv_buffer:
            self.qkv.copy_(self.qkv_buffer)
        if rotation is not None:
            self.complex_qk.mul_(rotation)
        key_slot, value_slot = self.cache_slots[position]
        key_slot.copy_(self.key)
        value_slot.copy_(self.value)
        torch.baddbmm(mask, self.query, self.keys, alpha=self.scale, out=self.scores)
        torch.softmax(self.scores, -1, out=self.attention_weights)
        torch.bmm(self.attention_weights, self.values, out=self.attention_output)
        _add_linear(x, self.merged_heads, self.out_weights)
        torch.addmm(self.up_weights[0], self.norm_feedforward(x), self.up_weights[1], out=self.hidden)
        _add_linear(x, F.gelu(self.hidden, approximate="tanh"), self.down_weights)


def addmm_weights(layer: nn.Linear, rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Bias (n,) and weight (m, n) of a linear layer, in the memory order that `torch.addmm` reads fastest.

    A product with one row reads the weights once in either order; with more rows, this order is twice as fast.
    """
    weight = layer.weight.to(dtype).t()
    return layer.bias.to(dtype), weight if rows == 1 else weight.contiguous()


def _add_linear(x: Tensor, y: Tensor, weights: tuple[Tensor, Tensor]) -> None:
    """x += linear(y), in place: x (B, D), y (B, any width)."""
    bias, weight = weights
    x.add_(bias)
    if weight.dtype == torch.float32:
        torch.addmm(x, y, weight, out=x)
    else:
        x.add_(y.to(weight.dtype) @ weight)


def _order_by_group(x: Tensor, groups: int, d: int, has_rotary: bool) -> Tensor:
    """Reorder queries, keys and values (..., (H+2G)*d) by key/value head: (..., G*(R+2)*d)."""
    num_heads = x.shape[-1] // d - 2 * groups
    parts = x.unflatten(-1, (-1, d)).split([num_heads, groups, groups], -2)  # (..., H or G, d)
    q, k, v = (part.unflatten(-2, (groups, -1)) for part in parts)  # (..., G, R or 1, d)
    if has_rotary:
        q, k = (interleave_pairs(part, part.ndim - 1) for part in (q, k))
    return torch.cat([q, k, v], -2).flatten(-3)
