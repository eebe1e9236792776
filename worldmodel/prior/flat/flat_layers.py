"""Layers of the flat prior: causal attention over the positions of a frame and of the frames before, for whole clips.

Shapes: B rows, T frames, S positions per frame, M frames of memory, H heads, G key/value heads, d numbers per head,
D = H*d width, C condition width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.prior.conditioning import ConditionalLayerNorm
from worldmodel.prior.flat.rotary import rotate

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]  # of queries, keys and values, shapes of `windowed_attention`


def attention_mask(valid: Tensor, num_positions: int, memory: int) -> Tensor | None:
    """Mask for `windowed_attention`.

    A position attends to its own frame up to itself, and to the valid frames among the M before.

    Args:
        valid: (B, T) bool; positions of an invalid frame are visible to that frame alone.
        num_positions: S.
        memory: M.

    Returns:
        None where all earlier positions are visible; (B, 1, T*S, T*S) bool where the memory spans the clip; else
        (B*T, 1, S, (M+1)*S) bool, over the M frames before each frame and itself.
    """
    batch, length = valid.shape
    causal = torch.ones(num_positions, num_positions, dtype=torch.bool, device=valid.device).tril()
    if length <= memory + 1:
        if not torch.compiler.is_exporting() and bool(valid.all()):  # an exported graph must not depend on the rows
            return None
        order = torch.arange(length, device=valid.device)
        earlier = (order[:, None] > order[None]) & valid[:, None]  # (B, T, T)
        own = torch.block_diag(*[causal] * length)
        return (earlier.repeat_interleave(num_positions, 1).repeat_interleave(num_positions, 2) | own)[:, None]
    past = F.pad(valid, (memory, 0)).unfold(1, memory + 1, 1)[:, :length, :memory]  # (B, T, M)
    past = rearrange(past, "b t m -> (b t) 1 1 m").repeat_interleave(num_positions, 3)
    return torch.cat([past.expand(-1, -1, num_positions, -1), causal.expand(batch * length, 1, -1, -1)], -1)


def windowed_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, length: int, memory: int) -> Tensor:
    """Attention of a whole clip; beyond the memory its cost is linear in the clip's length.

    Args:
        q: (B, H, T*S, d).
        k, v: (B, G, T*S, d); each of their heads serves H/G query heads.
        mask: from `attention_mask`.
        length: T.
        memory: M.

    Returns:
        (B, H, T*S, d).
    """
    is_grouped = k.shape[1] < q.shape[1]
    if length <= memory + 1:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=is_grouped)

    def windows(x: Tensor) -> Tensor:
        frames = rearrange(x, "b h (t s) d -> b h t s d", t=length)
        frames = F.pad(frames, (0, 0, 0, 0, memory, 0)).unfold(2, memory + 1, 1)  # (B, H, T, S, d, M+1)
        return rearrange(frames, "b h t s d m -> (b t) h (m s) d")

    queries = rearrange(q, "b h (t s) d -> (b t) h s d", t=length)
    y = F.scaled_dot_product_attention(queries, windows(k), windows(v), attn_mask=mask, enable_gqa=is_grouped)
    return rearrange(y, "(b t) h s d -> b h (t s) d", t=length)


class FlatBlock(nn.Module):
    """A transformer block: attention and feed-forward layer, each after a conditional LayerNorm, each with dropout.

    Args:
        width: D.
        num_heads: H.
        num_kv_heads: G, divides H.
        condition_dim: C.
        feedforward: width of the hidden layer, as a multiple of D.
        dropout: probability of dropping an output of attention or feed-forward layer in training (paper table 9).
        num_layers: blocks in the whole stack, for the initial scale of the residual branches.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        num_kv_heads: int,
        condition_dim: int,
        feedforward: int,
        dropout: float,
        num_layers: int,
    ) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.norm_attention = ConditionalLayerNorm(width, condition_dim)
        self.qkv_proj = nn.Linear(width, width + 2 * num_kv_heads * (width // num_heads))  # H, G and G heads
        self.out_proj = nn.Linear(width, width)
        self.norm_feedforward = ConditionalLayerNorm(width, condition_dim)
        self.up_proj = nn.Linear(width, feedforward * width)
        self.down_proj = nn.Linear(feedforward * width, width)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.qkv_proj, self.up_proj):
            nn.init.normal_(layer.weight, std=0.02)
        for layer in (self.out_proj, self.down_proj):
            nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * num_layers))

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        mask: Tensor | None,
        cos_sin: Tensor | None,
        memory: int,
        attention: Attention | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Apply the block to whole clips.

        Args:
            x: (B, T, S, D).
            condition: (B, T, C), one per frame.
            mask: from `attention_mask`.
            cos_sin: from `RotaryEmbedding.cos_sin`, or None.
            memory: M.
            attention: used in place of attention to all positions that the mask permits.

        Returns:
            (B, T, S, D), and the keys and values, (B, G, T*S, d) each.
        """
        batch, length = x.shape[:2]
        condition = condition.flatten(0, 1)  # (B*T, C)
        x = x.flatten(0, 1)  # (B*T, S, D)
        qkv = self.qkv_proj(self.norm_attention(x, condition))
        heads = self.num_heads + 2 * self.num_kv_heads
        qkv = rearrange(qkv, "(b t) s (a d) -> a b (t s) d", b=batch, a=heads)
        parts = qkv.split([self.num_heads, self.num_kv_heads, self.num_kv_heads])
        q, k, v = (rearrange(part, "h b n d -> b h n d") for part in parts)
        if cos_sin is not None:
            query_cos_sin, key_cos_sin = cos_sin.flatten(3, 4)[:, :, :, None]  # (2, B, 1, T*S, E) each
            q, k = rotate(q, query_cos_sin), rotate(k, key_cos_sin)
        y = windowed_attention(q, k, v, mask, length, memory) if attention is None else attention(q, k, v)
        x = x + self.dropout(self.out_proj(rearrange(y, "b h (t s) d -> (b t) s (h d)", t=length)))
        x = x + self.dropout(self._feedforward(self.norm_feedforward(x, condition)))
        return x.unflatten(0, (batch, length)), (k, v)

    def _feedforward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.up_proj(x), approximate="tanh"))
