"""Rotary position embedding over time, row and column, as exact at step 10,000 as at step 10.

Shapes: B rows, T frames, S positions per frame (a start token, then the K = h*w codes in raster order), d numbers per
head, E = d/2 pairs of numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from worldmodel.common.errors import UserError


class RotaryEmbedding(nn.Module):
    """Rotates pairs of numbers by angles that grow with time, row and column (Su et al. 2021, "RoFormer").

    All frequencies are 2*pi*n/P with integer n, and angles are computed for the position mod P, so large positions
    cause no rounding error. Products of rotated queries and keys depend on differences of positions alone. P is at
    least four times the largest difference within reach of the attention. One third of the pairs encodes the row, one
    third the column, the rest time.

    A query's position is the place whose code it predicts, a key's position the place whose code it holds. The code
    of the same place in the frame before therefore has a difference of (1, 0, 0).

    Args:
        head_dim: d, even and at least 6.
        grid: (h, w).
        memory: frames before its own that a position can attend to.

    Raises:
        UserError: a head too narrow for three axes.
    """

    time_angles: Tensor
    place_angles: Tensor

    def __init__(self, head_dim: int, grid: tuple[int, int], memory: int) -> None:
        super().__init__()
        if head_dim < 6 or head_dim % 2:
            raise UserError(
                f"rotary positions need pairs of numbers for time, row and column: a head has {head_dim} numbers, "
                "wanted an even number, 6 or more. Raise width or lower num_heads."
            )
        (h, w), pairs = grid, head_dim // 2
        index = torch.arange(-1, h * w + 1)  # from one place before the first to one after the last
        self.period = _period(memory + 1)
        self.register_buffer("time_angles", _angles(pairs - 2 * (pairs // 3), self.period), persistent=False)
        row_angles, column_angles = (_angles(pairs // 3, _period(n + 1)) for n in grid)
        rows, columns = index.div(w, rounding_mode="floor") % len(row_angles), index % w
        places = torch.cat([row_angles[rows], column_angles[columns]], 1)  # (S + 1, E of row and column)
        self.register_buffer("place_angles", places, persistent=False)

    def cos_sin(self, times: Tensor) -> Tensor:
        """Cosines and sines of the rotary angles of frames.

        Args:
            times: (B, T) int64, frames since the beginning; may be negative.

        Returns:
            (2, 2, B, T, S, E) float32: for queries and for keys, cosines and sines.
        """
        time_angles = self.time_angles[times % self.period][:, :, None]  # (B, T, 1, E of time)
        result = []
        for place_angles in (self.place_angles[1:], self.place_angles[:-1]):  # predicted place, held place: (S, ...)
            batch, length, size = *times.shape, len(place_angles)
            parts = (time_angles.expand(-1, -1, size, -1), place_angles.expand(batch, length, -1, -1))
            angles = torch.cat(parts, -1)
            result.append(torch.stack([angles.cos(), angles.sin()]))
        return torch.stack(result)


def rotate(x: Tensor, cos_sin: Tensor) -> Tensor:
    """Rotate pairs (x[i], x[i + E]) of (..., d) by cosines and sines (2, ..., E), whose middle axes broadcast."""
    cos, sin = cos_sin
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def _period(max_difference: int) -> int:
    """The smallest power of two that is at least four times the largest difference of positions."""
    return 4 * 2 ** math.ceil(math.log2(max_difference))


def _angles(pairs: int, period: int) -> Tensor:
    """(period, pairs) float32: the angles of every position, for frequencies n from 1 to period/4."""
    frequencies = torch.logspace(0, math.log2(period // 4), pairs, base=2.0, dtype=torch.float64).round().long()
    phase = torch.arange(period)[:, None] * frequencies % period
    return (phase.double() * (2 * math.pi / period)).float()
