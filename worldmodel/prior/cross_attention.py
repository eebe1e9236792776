"""Attention of every position to the features of given frames (paper section 3: conditioning on frames).

Shapes: B rows, T time steps, S positions per time step, M features of the given frames, H heads, d numbers per head,
D = H*d width, C condition width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.prior.conditioning import ConditionalLayerNorm


class CrossAttention(nn.Module):
    """x + attention of LN(x) to the features; the last layer of a transformer block.

    Args:
        width: D.
        num_heads: H.
        condition_dim: C.
        dropout: probability of dropping an output in training.
        num_layers: blocks in the whole stack, for the initial scale.
    """

    def __init__(self, width: int, num_heads: int, condition_dim: int, dropout: float, num_layers: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = ConditionalLayerNorm(width, condition_dim)
        self.query_proj = nn.Linear(width, width)
        self.key_value_proj = nn.Linear(width, 2 * width)
        self.out_proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.query_proj, self.key_value_proj):
            nn.init.normal_(layer.weight, std=0.02)
        nn.init.normal_(self.out_proj.weight, std=0.02 / math.sqrt(2 * num_layers))

    def forward(self, x: Tensor, condition: Tensor, features: Tensor) -> Tensor:
        """Whole clips: (B, T, S, D), conditions (B, T, C) and features (B, M, D) -> (B, T, S, D)."""
        length = x.shape[1]
        normed = self.norm(x.flatten(0, 1), condition.flatten(0, 1))  # (B*T, S, D)
        keys, values = self._keys_values(features)
        y = self._attend(rearrange(normed, "(b t) s d -> b (t s) d", t=length), keys, values)
        return x + self.dropout(rearrange(y, "b (t s) d -> b t s d", t=length))

    def position_update(self, condition: Tensor, features: Tensor) -> Callable[[Tensor], Tensor]:
        """For sampling position by position: a function of x (B, D) that returns what is added to it, (B, D).

        Args:
            condition: (B, C), of all positions that the function is called for.
            features: (B, M, D).
        """
        gain, bias = (x.float() for x in self.norm.gain_and_bias(condition))
        keys, values = self._keys_values(features)

        def update(x: Tensor) -> Tensor:
            normed = F.layer_norm(x, (self.norm.width,)) * gain + bias
            return self._attend(normed[:, None], keys, values)[:, 0]

        return update

    def _keys_values(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, M, d) each."""
        keys, values = rearrange(self.key_value_proj(features), "b m (n h d) -> n b h m d", n=2, h=self.num_heads)
        return keys, values

    def _attend(self, normed: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        queries = rearrange(self.query_proj(normed), "b n (h d) -> b h n d", h=self.num_heads)
        y = F.scaled_dot_product_attention(queries, keys, values)
        return self.out_proj(rearrange(y, "b h n d -> b n (h d)"))
