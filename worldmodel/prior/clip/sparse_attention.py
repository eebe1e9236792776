"""The paper's sparse attention: local and strided over space-time, in blocks of one latent row.

Block (t, y) holds the positions that predict row y of time step t; block h-1 also holds the position of the last code,
which predicts nothing. A block sees itself, the four blocks before it in raster order, and the blocks of the same row
of every earlier time step; within that, a position sees the positions up to its own. At 8 x 32 x 32 codes these are
2,166 of the 32,896 causal blocks, 6.6 %.

Shapes: T time steps, h w code grid, K = h*w codes and S = K+1 positions per time step, N = T*S positions, H heads, G
key/value heads, d numbers per head.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.prior.flat.flat_layers import Attention

NUM_LOCAL = 4  # blocks before its own that a block sees
MIN_FLEX_DIM = 16  # numbers per head that FlexAttention's GPU kernels need at least


def is_visible_block(distance: Tensor, num_rows: int) -> Tensor:
    """Whether a block sees another: (...) int64, its index minus the other's, -> (...) bool.

    Args:
        distance: of indices in raster order, t*h + y.
        num_rows: h.
    """
    return (distance >= 0) & ((distance <= NUM_LOCAL) | (distance % num_rows == 0))


def position_blocks(num_steps: int, grid: tuple[int, int]) -> Tensor:
    """(N,) int64: the block of each position."""
    (h, w), times = grid, torch.arange(num_steps)
    rows = (torch.arange(h * w + 1) // w).clamp_max(h - 1)  # (S,)
    return (times[:, None] * h + rows).flatten()


class SparseAttention(nn.Module):
    """Attention of whole clips in the sparse layout. It has no parameters, and nothing of it is stored.

    A CPU computes all products and masks them. A GPU computes, with FlexAttention, only the tiles that have something
    visible.

    Args:
        num_steps: T.
        grid: (h, w).
    """

    blocks: Tensor

    def __init__(self, num_steps: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.num_steps, self.num_rows = num_steps, grid[0]
        self.register_buffer("blocks", position_blocks(num_steps, grid), persistent=False)
        self._block_masks: dict[torch.device, Any] = {}  # for FlexAttention; constants

    def mask(self) -> Tensor:
        """(N, N) bool: whether the position of the first index sees the position of the second."""
        order = torch.arange(self.num_steps * self.num_rows, device=self.blocks.device)
        visible = is_visible_block(order[:, None] - order, self.num_rows)  # (T*h, T*h)
        return visible[self.blocks][:, self.blocks].tril_()

    def step_masks(self) -> list[Tensor]:
        """For each time step t, the masks of its positions over all positions so far: T of (S, (t+1)*S) bool."""
        steps = self.mask().unflatten(0, (self.num_steps, -1))
        return [mask[:, : (t + 1) * mask.shape[0]] for t, mask in enumerate(steps)]

    def function(self) -> Attention:
        """Attention (B, H, N, d), (B, G, N, d), (B, G, N, d) -> (B, H, N, d), for all layers of one forward pass."""
        mask = None if self.blocks.is_cuda else self.mask()

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if self.blocks.is_cuda and q.shape[-1] >= MIN_FLEX_DIM:
                return self.flex_attention(q, k, v)
            attn_mask = self.mask() if mask is None else mask
            return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, enable_gqa=k.shape[1] < q.shape[1])

        return attend

    def flex_attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The same by FlexAttention: compiled on a GPU, slow and without gradient on a CPU."""
        from torch.nn.attention.flex_attention import flex_attention

        compute = _compiled_flex_attention() if q.is_cuda else flex_attention
        q, k = q.to(v.dtype), k.to(v.dtype)  # rotated ones are float32 under autocast
        return compute(q, k, v, block_mask=self._block_mask(), enable_gqa=k.shape[1] < q.shape[1])

    def _block_mask(self) -> Any:
        """The `BlockMask` for this device."""
        blocks, num_rows = self.blocks, self.num_rows
        if blocks.device not in self._block_masks:
            from torch.nn.attention.flex_attention import create_block_mask

            def is_visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                return is_visible_block(blocks[query] - blocks[key], num_rows) & (query >= key)

            size = len(blocks)
            self._block_masks[blocks.device] = create_block_mask(
                is_visible, None, None, size, size, device=str(blocks.device)
            )
        return self._block_masks[blocks.device]


@functools.cache
def _compiled_flex_attention() -> Any:
    """FlexAttention, compiled at its first call."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)
