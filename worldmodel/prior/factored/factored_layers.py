"""Layers of the factored prior: attention between places, convolution between neighbours.

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

# gain and bias, (B, 1, D) each, of both LayerNorms of a block
GainsAndBiases = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass
class GroupCache:
    """Keys and values of the groups sampled so far, each (B, H, P, D/H); the first `length` tokens are filled."""

    keys: Tensor
    values: Tensor
    length: int = 0


class Attention(nn.Module):
    """Multi-head attention between the tokens of a frame.

    Args:
        width: D, a multiple of the heads.
        num_heads: H.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None, cache: GroupCache | None = None) -> Tensor:
        """Attend.

        Args:
            x: (B, N, D).
            mask: (N, N) bool, True where the token of the row attends to the token of the column; None for all.
            cache: the keys and values of the N tokens are appended to it, and the tokens attend to all of its tokens.

        Returns:
            (B, N, D).
        """
        q, k, v = self.qkv_proj(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, N, D/H) each
        if cache is not None:
            end = cache.length + x.shape[1]
            cache.keys[:, :, cache.length : end] = k
            cache.values[:, :, cache.length : end] = v
            cache.length = end
            k, v = cache.keys[:, :, :end], cache.values[:, :, :end]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class FactoredBlock(nn.Module):
    """A transformer block: attention and feed-forward layer, each after a conditional LayerNorm.

    Args:
        width: D.
        num_heads: H.
        condition_dim: C.
        num_layers: blocks in the whole stack, for the initial scale of the residual branches.
    """

    def __init__(self, width: int, num_heads: int, condition_dim: int, num_layers: int) -> None:
        super().__init__()
        self.norm_attention = ConditionalLayerNorm(width, condition_dim)
        self.attention = Attention(width, num_heads)
        self.norm_feedforward = ConditionalLayerNorm(width, condition_dim)
        self.up_proj = nn.Linear(width, 4 * width)
        self.down_proj = nn.Linear(4 * width, width)
        for layer in (self.attention.qkv_proj, self.up_proj):
            nn.init.normal_(layer.weight, std=0.02)
        for layer in (self.attention.out_proj, self.down_proj):
            nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * num_layers))

    def gains_and_biases(self, condition: Tensor) -> GainsAndBiases:
        """Gains and biases of both LayerNorms for a condition (B, C), the same for all tokens of a frame."""
        attention_gain, attention_bias = self.norm_attention.gain_and_bias(condition)
        feedforward_gain, feedforward_bias = self.norm_feedforward.gain_and_bias(condition)
        return (
            (attention_gain[:, None], attention_bias[:, None]),
            (feedforward_gain[:, None], feedforward_bias[:, None]),
        )

    def forward(
        self,
        x: Tensor,
        gains_and_biases: GainsAndBiases,
        mask: Tensor | None = None,
        cache: GroupCache | None = None,
    ) -> Tensor:
        """Apply the block.

        Args:
            x: (B, N, D).
            gains_and_biases: from the method of that name.
            mask, cache: as in `Attention`.

        Returns:
            (B, N, D).
        """
        of_attention, of_feedforward = gains_and_biases
        x = x + self.attention(_layer_norm(x, *of_attention), mask, cache)
        return x + self.down_proj(F.gelu(self.up_proj(_layer_norm(x, *of_feedforward)), approximate="tanh"))


def _layer_norm(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    return torch.addcmul(bias, F.layer_norm(x, x.shape[-1:]), gain)


class ResidualGridConv(nn.Module):
    """x + a depthwise 3 x 3 convolution over the grid, which starts at zero; tokens after the grid's are unchanged.

    Args:
        width: D.
        order: the places of the tokens.
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
        num_places = len(self.order.token_places)
        grid = self.order.to_grid(x[:, :num_places]).permute(0, 3, 1, 2)  # (B, D, h, w)
        update = self.order.to_tokens(self.conv(grid).permute(0, 2, 3, 1))  # (B, P, D)
        return x + F.pad(update, (0, 0, 0, x.shape[1] - num_places))
