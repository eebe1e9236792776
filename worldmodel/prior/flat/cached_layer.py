"""A frame written by the flat prior: what a layer does for one position of it, in few calls and in place.

What the positions of a frame share is prepared once a frame: gains and biases of the LayerNorms, turns, weights in the
order in which they are read. Nothing that a position allocates is of the cache's size. Queries and keys are turned as
complex numbers, by one product: the two numbers of a pair stand beside each other here (`beside`), where `Rotary` has
them half a head apart; products of queries and keys are the same.

Shapes: B rows, S positions a frame, N positions in the cache, the frame's own the last S of
them, L layers, H heads, G heads of keys and values, each asked by R = H/G heads, d numbers a head, E = d/2 pairs,
D = H*d width, C condition.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from worldmodel.prior.conditioning import ConditionalLayerNorm
    from worldmodel.prior.flat.flat_layers import FrameBlock


def beside(x: Tensor, dim: int) -> Tensor:
    """Pairs half a head apart -> pairs beside each other: d numbers along an axis, counted from the front."""
    return x.unflatten(dim, (2, -1)).transpose(dim, dim + 1).flatten(dim, dim + 1)


def group_rotations(turns: Tensor, asking: int) -> tuple[Tensor, ...]:
    """Turns of the positions of one frame, as complex numbers.

    Args:
        turns: (2, 2, B, 1, S, E), from `Rotary.turns`.
        asking: R.

    Returns:
        S of (B, 1, R+1, E) complex64: of a group's queries, and of its key.
    """
    of_query, of_key = torch.complex(*turns[:, :, :, 0].unbind(1))[:, :, :, None].unbind(0)  # (B, S, 1, E) each
    return torch.cat([of_query.expand(-1, -1, asking, -1), of_key], 2)[:, :, None].unbind(1)


class Normal:
    """A conditional LayerNorm under the condition of one frame.

    Args:
        norm: the layer.
        condition: (B, C).
        dtype: of what it returns.
    """

    def __init__(self, norm: ConditionalLayerNorm, condition: Tensor, dtype: torch.dtype) -> None:
        self.gain, self.bias = (x.float() for x in norm.affine_of(condition))  # (B, D)
        self.shape, self.out = (norm.width,), torch.empty_like(self.gain, dtype=dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D), overwritten by the next call."""
        return torch.addcmul(self.bias, F.layer_norm(x, self.shape), self.gain, out=self.out)


class CachedLayer:
    """A layer of a frame that is being written, without dropout.

    Args:
        block: the layer.
        condition: (B, C), of the frame.
        keys: (B, G, d, N) float32; the frame's own are written into it.
        values: (B, G, N, d) float32, likewise.
        size: S.
        turned: whether queries and keys are turned.
        dtype: of the products with weights; the stream and what attends are float32.
    """

    def __init__(
        self,
        block: FrameBlock,
        condition: Tensor,
        keys: Tensor,
        values: Tensor,
        size: int,
        turned: bool,
        dtype: torch.dtype,
    ) -> None:
        rows, groups, d, _ = keys.shape
        asking = block.num_heads // groups  # R
        self.scale = 1 / math.sqrt(d)
        self.norm_attention = Normal(block.norm_attention, condition, dtype)
        self.norm_feedforward = Normal(block.norm_feedforward, condition, dtype)
        bias, weight = read_weights(block.qkv, 1, dtype)
        self.qkv = _by_group(bias, groups, d, turned), _by_group(weight, groups, d, turned)
        self.out, self.widen, self.narrow = (
            read_weights(layer, rows, dtype) for layer in (block.out, block.widen, block.narrow)
        )
        self.made = weight.new_empty(rows, weight.shape[1])
        self.asked = self.made if dtype == torch.float32 else self.made.float()
        parts = self.asked.view(rows, groups, asking + 2, d)  # queries, key, value
        self.turned = torch.view_as_complex(parts[:, :, :-1].unflatten(3, (-1, 2)))  # (B, G, R+1, E)
        self.query = parts[:, :, :-2].view(rows * groups, asking, d)
        self.key, self.value = parts[:, :, -2], parts[:, :, -1]  # (B, G, d)
        self.keys, self.values = keys.flatten(0, 1), values.flatten(0, 1)
        self.own = list(zip(keys[..., -size:].unbind(3), values[:, :, -size:].unbind(2), strict=True))  # S of (B, G, d)
        self.attended = keys.new_empty(rows * groups, asking, d)
        self.answer = self.attended.view(rows, -1)  # (B, D)
        self.wide = weight.new_empty(rows, block.widen.out_features)
        self.reach(keys.shape[3])

    def reach(self, end: int) -> None:
        """Attend to the cache's first positions, so many, from now on."""
        self.some_keys, self.some_values = self.keys[..., :end], self.values[:, :end]  # (B*G, d, n), (B*G, n, d)
        self.scores = self.attended.new_empty(*self.attended.shape[:2], end)
        self.shares = torch.empty_like(self.scores)

    def __call__(self, x: Tensor, n: int, mask: Tensor, turns: Tensor | None) -> None:
        """One position more.

        Args:
            x: (B, D) float32, the stream, changed in place.
            n: which of the frame's positions it is.
            mask: (B*G, 1, end) float32: 0 where a position of the cache is seen, else -inf.
            turns: (B, 1, R+1, E) complex64, from `group_rotations`, or None.
        """
        torch.addmm(self.qkv[0], self.norm_attention(x), self.qkv[1], out=self.made)
        if self.asked is not self.made:
            self.asked.copy_(self.made)
        if turns is not None:
            self.turned.mul_(turns)
        key, value = self.own[n]
        key.copy_(self.key)
        value.copy_(self.value)
        torch.baddbmm(mask, self.query, self.some_keys, alpha=self.scale, out=self.scores)
        torch.softmax(self.scores, -1, out=self.shares)
        torch.bmm(self.shares, self.some_values, out=self.attended)
        _add(x, self.answer, self.out)
        torch.addmm(self.widen[0], self.norm_feedforward(x), self.widen[1], out=self.wide)
        _add(x, F.gelu(self.wide, approximate="tanh"), self.narrow)


def _add(x: Tensor, y: Tensor, layer: tuple[Tensor, Tensor]) -> None:
    """Add a linear layer's answer to the stream: (B, D), and (B, D) or wider."""
    bias, weight = layer
    x.add_(bias)
    if weight.dtype == torch.float32:
        torch.addmm(x, y, weight, out=x)
    else:
        x.add_(y.to(weight.dtype) @ weight)


def read_weights(layer: nn.Linear, rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Bias and weight of a linear layer as `addmm` reads them fastest: (n,) and (m, n).

    A product with one row reads its weights once, in either order; with more, in this one twice as fast.
    """
    weight = layer.weight.to(dtype).t()
    return layer.bias.to(dtype), weight if rows == 1 else weight.contiguous()


def _by_group(x: Tensor, groups: int, d: int, turned: bool) -> Tensor:
    """Queries, keys and values (..., (H+2G)*d) so that those of a group stand together: (..., G*(R+2)*d)."""
    count = x.shape[-1] // d - 2 * groups
    parts = x.unflatten(-1, (-1, d)).split([count, groups, groups], -2)  # (..., H or G, d)
    q, k, v = (part.unflatten(-2, (groups, -1)) for part in parts)  # (..., G, R or 1, d)
    if turned:
        q, k = (beside(part, part.ndim - 1) for part in (q, k))
    return torch.cat([q, k, v], -2).flatten(-3)
