"""The layers of the flat prior: attention of positions over the frames before them, of whole clips in one pass.

Shapes: B rows, T frames, S positions a frame, M frames of memory, H heads, G heads of keys and values, d numbers a
head, D = H*d width, C condition width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.prior.conditioning import ConditionalLayerNorm
from worldmodel.prior.flat.rotary import turn


def attention_mask(valid: Tensor, size: int, memory: int) -> Tensor | None:
    """Who sees whom: a position sees its own frame up to itself and the valid ones of the M frames before.

    Args:
        valid: (B, T) bool; positions of an invalid frame are seen by that frame alone.
        size: S.
        memory: M.

    Returns:
        What `attend` takes: None where all that went before is seen; (B, 1, T*S, T*S) where memory spans the
        clip; else (B*T, 1, S, (M+1)*S), over the M frames before each frame and itself.
    """
    batch, length = valid.shape
    before = torch.ones(size, size, dtype=torch.bool, device=valid.device).tril()
    if length <= memory + 1:
        if not torch.compiler.is_exporting() and bool(valid.all()):  # a graph holds for any rows
            return None
        order = torch.arange(length, device=valid.device)
        earlier = (order[:, None] > order[None]) & valid[:, None]  # (B, T, T)
        own = torch.block_diag(*[before] * length)
        return (earlier.repeat_interleave(size, 1).repeat_interleave(size, 2) | own)[:, None]
    past = F.pad(valid, (memory, 0)).unfold(1, memory + 1, 1)[:, :length, :memory]  # (B, T, M)
    past = rearrange(past, "b t m -> (b t) 1 1 m").repeat_interleave(size, 3)
    return torch.cat([past.expand(-1, -1, size, -1), before.expand(batch * length, 1, -1, -1)], -1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, length: int, memory: int) -> Tensor:
    """Attention of a whole clip, linear in its length beyond the memory.

    Args:
        q: (B, H, T*S, d).
        k, v: (B, G, T*S, d); each of their heads is asked by H/G heads.
        mask: from `attention_mask`.
        length: T.
        memory: M.

    Returns:
        (B, H, T*S, d).
    """
    grouped = k.shape[1] < q.shape[1]
    if length <= memory + 1:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped)

    def windows(x: Tensor) -> Tensor:
        frames = rearrange(x, "b h (t s) d -> b h t s d", t=length)
        frames = F.pad(frames, (0, 0, 0, 0, memory, 0)).unfold(2, memory + 1, 1)  # (B, H, T, S, d, M+1)
        return rearrange(frames, "b h t s d m -> (b t) h (m s) d")

    asked = rearrange(q, "b h (t s) d -> (b t) h s d", t=length)
    y = F.scaled_dot_product_attention(asked, windows(k), windows(v), attn_mask=mask, enable_gqa=grouped)
    return rearrange(y, "(b t) h s d -> b h (t s) d", t=length)


class FrameBlock(nn.Module):
    """Attention and a feed-forward layer, each behind a conditional LayerNorm, each with dropout after it.

    Args:
        width: D.
        num_heads: H.
        num_kv_heads: G, divides H.
        condition_dim: C.
        feedforward: width of the hidden layer, in D.
        dropout: share of what is added to the stream that is dropped while training (paper table 9).
        num_layers: layers in the whole stack, for the initial scale of what is added to the stream.
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
        self.qkv = nn.Linear(width, width + 2 * num_kv_heads * (width // num_heads))  # H, G and G heads
        self.out = nn.Linear(width, width)
        self.norm_feedforward = ConditionalLayerNorm(width, condition_dim)
        self.widen = nn.Linear(width, feedforward * width)
        self.narrow = nn.Linear(feedforward * width, width)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.qkv, self.widen):
            nn.init.normal_(layer.weight, std=0.02)
        for layer in (self.out, self.narrow):
            nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * num_layers))

    def forward(
        self, x: Tensor, condition: Tensor, mask: Tensor | None, turns: Tensor | None, memory: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """A whole clip.

        Args:
            x: (B, T, S, D).
            condition: (B, T, C), one a frame.
            mask: from `attention_mask`.
            turns: from `Rotary.turns`, or None.
            memory: M.

        Returns:
            (B, T, S, D), and the keys and values, (B, G, T*S, d) each.
        """
        batch, length = x.shape[:2]
        told = condition.flatten(0, 1)  # (B*T, C)
        stream = x.flatten(0, 1)  # (B*T, S, D)
        qkv = self.qkv(self.norm_attention(stream, told))
        heads = self.num_heads + 2 * self.num_kv_heads
        parts = rearrange(qkv, "(b t) s (a d) -> a b (t s) d", b=batch, a=heads)
        split = [self.num_heads, self.num_kv_heads, self.num_kv_heads]
        q, k, v = (rearrange(part, "h b n d -> b h n d") for part in parts.split(split))
        if turns is not None:
            of_query, of_key = turns.flatten(3, 4)[:, :, :, None]  # (2, B, 1, n, E) each
            q, k = turn(q, of_query), turn(k, of_key)
        y = attend(q, k, v, mask, length, memory)
        stream = stream + self.dropout(self.out(rearrange(y, "b h (t s) d -> (b t) s (h d)", t=length)))
        stream = stream + self.dropout(self._widen(self.norm_feedforward(stream, told)))
        return stream.unflatten(0, (batch, length)), (k, v)

    def _widen(self, x: Tensor) -> Tensor:
        return self.narrow(F.gelu(self.widen(x), approximate="tanh"))
