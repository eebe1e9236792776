"""In which turn the places of a frame are written: groups of places, one group after the other.

Shapes: N frames, h w code grid, P = h*w places, G groups. A frame's tokens stand in the order of writing.
"""

from __future__ import annotations

from itertools import chain, pairwise

import torch
from torch import Tensor, nn

from worldmodel.common.errors import UserError


def groups_of(order: str, grid: tuple[int, int], num_groups: int) -> list[list[int]]:
    """The places of each group, counted row by row, in the order in which they are written.

    Args:
        order: "columns", from left to right, a column's places at once; "raster", row by row, place after place;
            "frame", all at once; "groups", spread: see `spread`.
        grid: (h, w).
        num_groups: of "groups".

    Returns:
        G lists, none longer than the one after it.

    Raises:
        UserError: a number of groups that the frame has no places for.
    """
    h, w = grid
    if order == "columns":
        return [[w * i + j for i in range(h)] for j in range(w)]
    if order == "raster":
        return [[place] for place in range(h * w)]
    if order == "frame":
        return [list(range(h * w))]
    if not 1 <= num_groups <= h * w:
        raise UserError(f"prior num_groups={num_groups}: wanted 1 to {h * w}, the codes of a frame.")
    return spread(grid, num_groups)


def spread(grid: tuple[int, int], num_groups: int) -> list[list[int]]:
    """Groups of like size whose places lie apart, cut out of the order of ordered dithering (Bayer 1973).

    On a grid of even sides 2 groups are a checkerboard's two colours; 4 are the places of even row and column, those
    diagonal to them, and the two kinds between. Inside a group places go row by row, so that what stands at one
    index in two groups is near each other.

    Args:
        grid: (h, w).
        num_groups: G, 1 to P.
    """
    h, w = grid
    ranks = sorted((_bayer(place // w, place % w), place) for place in range(h * w))
    bounds = [h * w * group // num_groups for group in range(num_groups + 1)]
    sizes = sorted(end - begin for begin, end in pairwise(bounds))
    groups, begin = [], 0
    for size in sizes:
        groups.append(sorted(place for _, place in ranks[begin : begin + size]))
        begin += size
    return groups


def _bayer(row: int, column: int, bits: int = 16) -> int:
    """When a place's turn comes: the lowest bits of row and column decide first, diagonals before sides."""
    rank = 0
    for bit in range(bits):
        down, right = row >> bit & 1, column >> bit & 1
        rank = rank * 4 + 2 * (down ^ right) + down
    return rank


class GroupOrder(nn.Module):
    """An order of writing, with what a decoder needs to follow it. It has no weights and is not saved.

    Each place is given one code of the group before, by its index in the group; as no group is smaller than the one
    before it, every code is given to one place, and all later places see that place.

    Args:
        groups: as `groups_of` returns them.
        grid: (h, w).

    Attributes:
        spans: the slice of the tokens that each group is.
    """

    places: Tensor
    turns: Tensor
    given: Tensor
    mask: Tensor | None

    def __init__(self, groups: list[list[int]], grid: tuple[int, int]) -> None:
        super().__init__()
        num_places, places = grid[0] * grid[1], list(chain.from_iterable(groups))
        assert sorted(places) == list(range(num_places)), "every place is written once"
        assert all(len(a) <= len(b) for a, b in pairwise(groups)), "no group is smaller than the one before it"
        self.grid, self.spans = grid, []
        given: list[int] = []
        group_of: list[int] = []
        for number, group in enumerate(groups):
            begin = len(given)
            self.spans.append(slice(begin, begin + len(group)))
            before = list(range(begin - len(groups[number - 1]), begin)) if number else []
            given += before + [num_places] * (len(group) - len(before))
            group_of += [number] * len(group)
        order, turn = torch.tensor(places), torch.tensor(group_of)
        self.register_buffer("places", order, persistent=False)  # (P,), the place of each token
        self.register_buffer("turns", order.argsort(), persistent=False)  # (P,), the token of each place
        self.register_buffer("given", torch.tensor(given), persistent=False)  # (P,), P: nothing is written yet
        mask = turn[:, None] >= turn[None] if len(groups) > 1 else None  # (P, P), row looks at column
        self.register_buffer("mask", mask, persistent=False)

    def to_order(self, grids: Tensor) -> Tensor:
        """(N, h, w, ...) -> (N, P, ...), in the order of writing."""
        return grids.flatten(1, 2).index_select(1, self.places)

    def to_grid(self, tokens: Tensor) -> Tensor:
        """(N, P, ...) in the order of writing -> (N, h, w, ...)."""
        return tokens.index_select(1, self.turns).unflatten(1, self.grid)
