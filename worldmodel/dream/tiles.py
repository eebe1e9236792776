"""Functions of rows computed in tiles of one size, so that a row's numbers do not depend on how many there are.

Kernels are chosen by the size of a batch, and with the kernel the order of its sums. Inside a tile of fixed size
neither a row's place nor its neighbours matter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

TILE = 8  # rows


def tiled(function: Callable[..., Any], *inputs: Any) -> Any:
    """What a function of rows returns, computed `TILE` rows at a time, the last tile padded with its last row.

    Args:
        function: takes and returns tensors, or dataclasses of such, whose first axis is rows.
        inputs: what it is given, of n >= 1 rows.
    """
    first = _leaf(inputs[0])
    index = torch.arange(-(-len(first) // TILE) * TILE, device=first.device).clamp_max(len(first) - 1)
    tiles = [function(*(_pick(x, rows) for x in inputs)) for rows in index.split(TILE)]
    return _pick(_join(tiles), torch.arange(len(first), device=first.device))


def _leaf(rows: Any) -> Tensor:
    """Any tensor in it."""
    return rows if isinstance(rows, Tensor) else _leaf(next(iter(vars(rows).values())))


def _pick(rows: Any, index: Tensor) -> Any:
    """Some rows of a tensor, or of a dataclass of such."""
    if isinstance(rows, Tensor):
        return rows[index]
    return type(rows)(**{name: _pick(value, index) for name, value in vars(rows).items()})


def _join(tiles: list[Any]) -> Any:
    """Tiles of rows below each other."""
    if isinstance(tiles[0], Tensor):
        return torch.cat(tiles)
    return type(tiles[0])(**{name: _join([getattr(tile, name) for tile in tiles]) for name in vars(tiles[0])})
