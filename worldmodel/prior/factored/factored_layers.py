"""The layers of the factored prior: attention over places, convolution between neighbours; how codes begin.

Shapes: B rows, P = h*w places, N tokens, D width, C condition width, H heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.prior.conditioning import ConditionalLayerNorm
from worldmodel.prior.factored.group_order import GroupOrder

Affines = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]  # (B, 1, D) each


@dataclass
class GroupCache:
    """Keys and values of the places written so far, each (B, H, P, D/H); `length` places are filled."""

    keys: Tensor
    values: Tensor
    length: int = 0


class Attention(nn.Module):
    """Multi-head attention among the tokens of a frame.

    Args:
        width: D, a multiple of the heads.
        num_heads: H.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None, cache: GroupCache | None = None) -> Tensor:
        """Attend.

        Args:
            x: (B, N, D).
            mask: (N, N) bool, True where row may look at column; None looks everywhere.
            cache: where the N tokens' keys and values are appended; they then look at all that is filled.

        Returns:
            (B, N, D).
        """
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, N, D/H) each
        if cache is not None:
            end = cache.length + x.shape[1]
            cache.keys[:, :, cache.length : end] = k
            cache.values[:, :, cache.length : end] = v
            cache.length = end
            k, v = cache.keys[:, :, :end], cache.values[:, :, :end]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a feed-forward layer, each behind a conditional LayerNorm.

    Args:
        width: D.
        num_heads: H.
        condition_dim: C.
        num_layers: layers in the whole stack, for the initial scale of what is added to the stream.
    """

    def __init__(self, width: int, num_heads: int, condition_dim: int, num_layers: int) -> None:
        super().__init__()
        self.norm_attention = ConditionalLayerNorm(width, condition_dim)
        self.attention = Attention(width, num_heads)
        self.norm_feedforward = ConditionalLayerNorm(width, condition_dim)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        for layer in (self.attention.qkv, self.widen):
            nn.init.normal_(layer.weight, std=0.02)
        for layer in (self.attention.out, self.narrow):
            nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * num_layers))

    def affines(self, condition: Tensor) -> Affines:
        """Gains and biases of both LayerNorms under a condition (B, C), the same for all tokens of a frame."""
        (gain, bias), (gain_of_feed, bias_of_feed) = (
            norm.affine_of(condition) for norm in (self.norm_attention, self.norm_feedforward)
        )
        return (gain[:, None], bias[:, None]), (gain_of_feed[:, None], bias_of_feed[:, None])

    def forward(
        self, x: Tensor, affines: Affines, mask: Tensor | None = None, cache: GroupCache | None = None
    ) -> Tensor:
        """(B, N, D) -> (B, N, D); `affines` from the method, `mask` and `cache` as in `Attention`."""
        x = x + self.attention(_normed(x, affines[0]), mask, cache)
        return x + self.narrow(F.gelu(self.widen(_normed(x, affines[1])), approximate="tanh"))


def _normed(x: Tensor, affine: tuple[Tensor, Tensor]) -> Tensor:
    gain, bias = affine
    return torch.addcmul(bias, F.layer_norm(x, x.shape[-1:]), gain)


class LocalMix(nn.Module):
    """x + a depthwise 3 x 3 convolution over the grid, starting at zero; tokens after the grid pass by.

    Args:
        width: D.
        order: where the tokens stand on the grid.
    """

    def __init__(self, width: int, order: GroupOrder) -> None:
        super().__init__()
        self.order = order
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        nn.init.zeros_(self.conv.weight)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, P + extra, D) -> the same shape."""
        places = len(self.order.places)
        picture = self.order.to_grid(x[:, :places]).permute(0, 3, 1, 2)  # (B, D, h, w)
        mixed = self.order.to_order(self.conv(picture).permute(0, 2, 3, 1))  # (B, P, D)
        return x + F.pad(mixed, (0, 0, 0, x.shape[1] - places))


def codebook_vectors(embeddings: Tensor, width: int) -> Tensor:
    """Where a prior's vectors of codes begin: the tokenizer's codebook, standardised, cut to the width.

    Args:
        embeddings: (V, n) float32.
        width: of the prior's vectors.

    Returns:
        (V, min(n, width)) float32.
    """
    return ((embeddings - embeddings.mean(0)) / embeddings.std().clamp_min(1e-6))[:, :width]
