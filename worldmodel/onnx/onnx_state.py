"""The prior's state in numpy: frozen dataclasses of arrays with one row per dream, which are never written to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np


class NumpyRows:
    """As `prior.state_rows.StateRows`, but never written to. Every subclass has `status`, (B,) int64."""

    status: np.ndarray

    def select(self, index: np.ndarray) -> Self:
        """Some rows: (n,) int64 -> n rows."""
        return type(self)(**{name: array[index] for name, array in vars(self).items()})

    def scatter(self, index: np.ndarray, rows: Self) -> Self:
        """These rows with n others, `rows`, at the indices (n,) int64."""
        arrays = {name: array.copy() for name, array in vars(self).items()}
        for name, array in arrays.items():
            array[index] = getattr(rows, name)
        return type(self)(**arrays)

    def restart_times(self, rows: np.ndarray) -> Self:
        """As `prior.state_rows.StateRows.restart_times`."""
        return self


@dataclass(frozen=True)
class NumpyContext(NumpyRows):
    """As `prior.context.Context`.

    Attributes:
        codes: (B, W, h, w) int64.
        actions: (B, W) or (B, W, A).
        has_action: (B, W) bool.
        status: (B,) int64.
    """

    codes: np.ndarray
    actions: np.ndarray
    has_action: np.ndarray
    status: np.ndarray
