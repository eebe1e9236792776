"""Functions of rows computed in tiles of one size, so that a row's result does not depend on the number of rows.

A kernel is chosen by the size of the batch, and with the kernel the order of its sums. In a tile of fixed size a row's
result depends neither on its position nor on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from worldmodel.dream.tensor_tree import tree_leaves, tree_map

TILE = 8  # rows


def apply_in_tiles(function: Callable[..., Any], *inputs: Any) -> Any:
    """Apply a function to `TILE` rows at a time; the last tile is padded with its last row.

    Args:
        function: takes and returns tensors, or dataclasses of tensors, whose first axis is rows.
        inputs: its arguments, of n >= 1 rows.

    Returns:
        The function's results for the n rows.
    """
    num_rows, device = len(tree_leaves(inputs[0])[0]), tree_leaves(inputs[0])[0].device
    index = torch.arange(-(-num_rows // TILE) * TILE, device=device).clamp_max(num_rows - 1)
    tiles = [function(*(_select(x, rows) for x in inputs)) for rows in index.split(TILE)]
    return _select(tree_map(lambda *tensors: torch.cat(tensors), *tiles), torch.arange(num_rows, device=device))


def _select(tree: Any, index: Tensor) -> Any:
    """Some rows of a tensor, or of a dataclass of tensors."""
    return tree_map(lambda tensor: tensor[index], tree)
