"""Rotary positions in time, row and column, as exact at step 10,000 as at step 10.

Shapes: B rows, T frames, S positions a frame (a start, then the K = h*w codes in raster order), d numbers
a head, E = d/2 pairs of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from worldmodel.common.errors import UserError


class Rotary(nn.Module):
    """Turns pairs of numbers by angles that grow with time, row and column (Su et al. 2021, "RoFormer").

    All frequencies are 2*pi*n/P with a whole n and are taken on the position mod P, so that no angle is ever
    rounded for being large. Products of turned queries and keys depend on differences of positions alone;
    P is at least four times the largest difference that attention can meet. A third of the pairs turns with
    the row, a third with the column, the rest with time.

    A query stands at the place whose code it predicts, a key at the place whose code it holds: what a place
    showed in the frame before lies straight behind the one who asks.

    Args:
        head_dim: d, even and at least 6.
        grid: (h, w).
        memory: frames before its own that a position can see.

    Raises:
        UserError: a head too narrow for three axes.
    """

    angles_of_time: Tensor
    angles_of_place: Tensor

    def __init__(self, head_dim: int, grid: tuple[int, int], memory: int) -> None:
        super().__init__()
        if head_dim < 6 or head_dim % 2:
            raise UserError(
                f"rotary positions turn pairs of numbers by time, row and column: a head has {head_dim} numbers, "
                "wanted an even number, 6 or more. Raise width or lower num_heads."
            )
        (h, w), pairs = grid, head_dim // 2
        index = torch.arange(-1, h * w + 1)  # the place before the first to the one after the last
        self.period = _period(memory + 1)
        self.register_buffer("angles_of_time", _angles(pairs - 2 * (pairs // 3), self.period), persistent=False)
        of_row, of_column = (_angles(pairs // 3, _period(n + 1)) for n in grid)
        rows, columns = index.div(w, rounding_mode="floor") % len(of_row), index % w
        places = torch.cat([of_row[rows], of_column[columns]], 1)  # (S + 1, E of space)
        self.register_buffer("angles_of_place", places, persistent=False)

    def turns(self, times: Tensor) -> Tensor:
        """Cosines and sines for frames at some times.

        Args:
            times: (B, T) int64, frames since the beginning; may be negative.

        Returns:
            (2, 2, B, T, S, E): of queries and keys, cosines and sines.
        """
        of_time = self.angles_of_time[times % self.period][:, :, None]  # (B, T, 1, E of time)
        both = []
        for of_place in (self.angles_of_place[1:], self.angles_of_place[:-1]):  # predicted, held: (S, E of space)
            batch, length, size = *times.shape, len(of_place)
            parts = (of_time.expand(-1, -1, size, -1), of_place.expand(batch, length, -1, -1))
            angles = torch.cat(parts, -1)
            both.append(torch.stack([angles.cos(), angles.sin()]))
        return torch.stack(both)


def turn(x: Tensor, turns: Tensor) -> Tensor:
    """Turn pairs of numbers (..., d) by cosines and sines (2, ..., E), whose middle axes broadcast."""
    cosine, sine = turns
    a, b = x.chunk(2, -1)
    return torch.cat([a * cosine - b * sine, a * sine + b * cosine], -1)


def _period(reach: int) -> int:
    """The least power of two that is at least four times the largest difference of positions."""
    return 4 * 2 ** math.ceil(math.log2(reach))


def _angles(pairs: int, period: int) -> Tensor:
    """(period, pairs) float32: the angles of every position, with frequencies n = 1 to period/4."""
    numbers = torch.logspace(0, math.log2(period // 4), pairs, base=2.0, dtype=torch.float64).round().long()
    whole = torch.arange(period)[:, None] * numbers % period
    return (whole.double() * (2 * math.pi / period)).float()
