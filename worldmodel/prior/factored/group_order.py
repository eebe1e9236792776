"""The order in which the places of a frame are sampled: groups of places, one group after the other.

Shapes: N frames, h w code grid, P = h*w places, G groups. A frame's tokens are in sampling order.
"""

from __future__ import annotations

from itertools import chain, pairwise

import torch
from torch import Tensor, nn

from worldmodel.common.errors import UserError


def make_groups(order: str, grid: tuple[int, int], num_groups: int) -> list[list[int]]:
    """The places of each group, numbered row by row, in sampling order.

    Args:
        order: "columns", a column per group from left to right; "raster", a place per group, row by row; "frame", one
            group of all places; "groups", see `spread_groups`.
        grid: (h, w).
        num_groups: of the order "groups".

    Returns:
        G lists, none longer than the next.

    Raises:
        UserError: a number of groups below 1 or above the number of places.
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
    return spread_groups(grid, num_groups)


def spread_groups(grid: tuple[int, int], num_groups: int) -> list[list[int]]:
    """Groups of nearly equal size whose places are far apart, cut from the order of ordered dithering (Bayer 1973).

    On a grid of even sides, 2 groups are the two colours of a checkerboard; 4 groups are the places of even row and
    column, their diagonal neighbours, and the two remaining kinds. Within a group places are sorted row by row, so
    that the places of two groups with the same index are near each other.

    Args:
        grid: (h, w).
        num_groups: G, 1 to P.
    """
    h, w = grid
    ranked = sorted((_bayer_rank(place // w, place % w), place) for place in range(h * w))
    bounds = [h * w * group // num_groups for group in range(num_groups + 1)]
    sizes = sorted(end - begin for begin, end in pairwise(bounds))
    groups, begin = [], 0
    for size in sizes:
        groups.append(sorted(place for _, place in ranked[begin : begin + size]))
        begin += size
    return groups


def _bayer_rank(row: int, column: int, bits: int = 16) -> int:
    """Rank of a place in ordered dithering: the lowest bits of row and column decide first, diagonals before sides."""
    rank = 0
    for bit in range(bits):
        row_bit, column_bit = row >> bit & 1, column >> bit & 1
        rank = rank * 4 + 2 * (row_bit ^ column_bit) + row_bit
    return rank


class GroupOrder(nn.Module):
    """A sampling order with the indices that a decoder needs for it. It has no weights and is not saved.

    Each token gets one code of the previous group as its input, matched by the index within the group. As no group
    is smaller than the one before it, every code is the input of one token, and all later tokens attend to that token.

    Args:
        groups: from `make_groups`.
        grid: (h, w).

    Attributes:
        group_slices: the slice of the tokens that each group is.
        token_places: (P,) int64, the place of each token.
        place_tokens: (P,) int64, the token of each place.
        input_tokens: (P,) int64, the token of the previous group whose code is each token's input; P for none.
        attention_mask: (P, P) bool, True where the token of the row attends to the token of the column: all tokens of
            its group and of earlier groups; None if there is one group.
    """

    token_places: Tensor
    place_tokens: Tensor
    input_tokens: Tensor
    attention_mask: Tensor | None

    def __init__(self, groups: list[list[int]], grid: tuple[int, int]) -> None:
        super().__init__()
        num_places, places = grid[0] * grid[1], list(chain.from_iterable(groups))
        assert sorted(places) == list(range(num_places)), "every place is in one group"
        assert all(len(a) <= len(b) for a, b in pairwise(groups)), "no group is smaller than the one before it"
        self.grid, self.group_slices = grid, []
        input_tokens: list[int] = []
        group_of: list[int] = []
        for number, group in enumerate(groups):
            begin = len(input_tokens)
            self.group_slices.append(slice(begin, begin + len(group)))
            previous = list(range(begin - len(groups[number - 1]), begin)) if number else []
            input_tokens += previous + [num_places] * (len(group) - len(previous))
            group_of += [number] * len(group)
        token_places, token_groups = torch.tensor(places), torch.tensor(group_of)
        self.register_buffer("token_places", token_places, persistent=False)
        self.register_buffer("place_tokens", token_places.argsort(), persistent=False)
        self.register_buffer("input_tokens", torch.tensor(input_tokens), persistent=False)
        mask = token_groups[:, None] >= token_groups[None] if len(groups) > 1 else None
        self.register_buffer("attention_mask", mask, persistent=False)

    def to_tokens(self, grids: Tensor) -> Tensor:
        """(N, h, w, ...) -> (N, P, ...), in sampling order."""
        return grids.flatten(1, 2).index_select(1, self.token_places)

    def to_grid(self, tokens: Tensor) -> Tensor:
        """(N, P, ...) in sampling order -> (N, h, w, ...)."""
        return tokens.index_select(1, self.place_tokens).unflatten(1, self.grid)
