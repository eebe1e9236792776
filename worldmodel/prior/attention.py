"""The layers of the flat prior: attention of positions over the frames before them, in one pass or one by one.

Shapes: B rows, T frames, S positions a frame, M frames of memory, H heads, d numbers a head, D = H*d width,
C condition width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.prior.conditioning import ConditionalLayerNorm
from worldmodel.prior.rotary import turn

Affines = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]  # (B, D) each


def sight(valid: Tensor, size: int, memory: int) -> Tensor | None:
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
        q, k, v: (B, H, T*S, d).
        mask: from `sight`.
        length: T.
        memory: M.

    Returns:
        (B, H, T*S, d).
    """
    if length <= memory + 1:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)

    def windows(x: Tensor) -> Tensor:
        frames = rearrange(x, "b h (t s) d -> b h t s d", t=length)
        frames = F.pad(frames, (0, 0, 0, 0, memory, 0)).unfold(2, memory + 1, 1)  # (B, H, T, S, d, M+1)
        return rearrange(frames, "b h t s d m -> (b t) h (m s) d")

    asked = rearrange(q, "b h (t s) d -> (b t) h s d", t=length)
    y = F.scaled_dot_product_attention(asked, windows(k), windows(v), attn_mask=mask)
    return rearrange(y, "(b t) h s d -> b h (t s) d", t=length)


class FrameBlock(nn.Module):
    """Attention and a feed-forward layer, each behind a conditional LayerNorm, each with dropout after it.

    Args:
        width: D.
        num_heads: H.
        condition_dim: C.
        feedforward: width of the hidden layer, in D.
        dropout: share of what is added to the stream that is dropped while training (paper table 9).
        num_layers: layers in the whole stack, for the initial scale of what is added to the stream.
    """

    def __init__(
        self, width: int, num_heads: int, condition_dim: int, feedforward: int, dropout: float, num_layers: int
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention = ConditionalLayerNorm(width, condition_dim)
        self.qkv = nn.Linear(width, 3 * width)
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
    ) -> tuple[Tensor, Tensor]:
        """A whole clip.

        Args:
            x: (B, T, S, D).
            condition: (B, T, C), one a frame.
            mask: from `sight`.
            turns: from `Rotary.turns`, or None.
            memory: M.

        Returns:
            (B, T, S, D), and the keys and values (2, B, H, T*S, d).
        """
        batch, length = x.shape[:2]
        told = condition.flatten(0, 1)  # (B*T, C)
        stream = x.flatten(0, 1)  # (B*T, S, D)
        qkv = self.qkv(self.norm_attention(stream, told))
        qkv = rearrange(qkv, "(b t) s (a h d) -> a b h (t s) d", b=batch, a=3, h=self.num_heads)
        q, k, v = _turned(qkv, None if turns is None else turns.flatten(3, 4))
        y = attend(q, k, v, mask, length, memory)
        stream = stream + self.dropout(self.out(rearrange(y, "b h (t s) d -> (b t) s (h d)", t=length)))
        stream = stream + self.dropout(self._widen(self.norm_feedforward(stream, told)))
        return stream.unflatten(0, (batch, length)), torch.stack([k, v])

    def affines(self, condition: Tensor) -> Affines:
        """Gains and biases of both LayerNorms for a frame told (B, C)."""
        return self.norm_attention.affine_of(condition), self.norm_feedforward.affine_of(condition)

    def append(self, x: Tensor, affines: Affines, mask: Tensor, turns: Tensor | None, cache: Tensor, at: int) -> Tensor:
        """One position more, given those before it.

        Args:
            x: (B, D).
            affines: from `affines`, the same for all positions of a frame.
            mask: (B, 1, 1, n) bool, n > `at`; which of the positions cached are seen.
            turns: (2, B, 2, 1, E), cosines and sines of query and key, or None.
            cache: (B, 2, H, n, d) keys and values; this position's are written into it.
            at: where; what stands behind is not looked at.

        Returns:
            (B, D).
        """
        (gain, bias), (gain_of_feed, bias_of_feed) = affines
        normal = F.layer_norm(x, x.shape[-1:])
        qkv = self.qkv(torch.addcmul(bias, normal, gain)).unflatten(1, (3, self.num_heads, -1))  # (B, 3, H, d)
        if turns is None:
            q, cache[:, :, :, at] = qkv[:, 0], qkv[:, 1:]
        else:
            q, k = turn(qkv[:, :2], turns).unbind(1)
            cache[:, 0, :, at], cache[:, 1, :, at] = k, qkv[:, 2]
        keys, values = cache[:, :, :, : at + 1].unbind(1)
        y = F.scaled_dot_product_attention(q[:, :, None], keys, values, attn_mask=mask[..., : at + 1])
        x = x + self.dropout(self.out(y.flatten(1)))
        return x + self.dropout(self._widen(torch.addcmul(bias_of_feed, F.layer_norm(x, x.shape[-1:]), gain_of_feed)))

    def _widen(self, x: Tensor) -> Tensor:
        return self.narrow(F.gelu(self.widen(x), approximate="tanh"))


def _turned(qkv: Tensor, turns: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of (3, B, H, n, d), the first two turned by (2, 2, B, n, E)."""
    if turns is None:
        q, k, v = qkv
    else:
        cosine_and_sine = turns.transpose(0, 1)[:, :, :, None]  # (2, 2, B, 1, n, E)
        (q, k), v = turn(qkv[:2], cosine_and_sine), qkv[2]
    return q, k, v
