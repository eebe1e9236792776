"""The status: a hidden variable of the environment that is predicted along with the frame, in bins."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from worldmodel.common.errors import UserError


@dataclass(frozen=True)
class StatusConfig:
    """Which variable is predicted, and its bins.

    Attributes:
        variable: its name in the dataset, e.g. "health"; empty for none.
        edges: ascending borders between the bins; n borders make n + 1 bins.

    Raises:
        UserError: a variable without borders, or borders that are not in ascending order.
    """

    variable: str = ""
    edges: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.variable and (not self.edges or list(self.edges) != sorted(set(self.edges))):
            raise UserError(f"status edges {self.edges}: wanted at least one border, in ascending order.")

    @property
    def num_bins(self) -> int:
        """Number of bins, 0 without a variable."""
        return len(self.edges) + 1 if self.variable else 0

    @property
    def values(self) -> tuple[float, ...]:
        """The variable at the centre of each bin. The two outer bins are taken to be as wide as their neighbours."""
        edges = self.edges
        if not self.variable:
            return ()
        widths = [b - a for a, b in pairwise(edges)] or [1.0]
        inner = [(a + b) / 2 for a, b in pairwise(edges)]
        return (edges[0] - widths[0] / 2, *inner, edges[-1] + widths[-1] / 2)
