"""The prior's state in numpy: frozen dataclasses of arrays with one row per dream, which are never written to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np


class NumpyRows:
    """As `prior.interface.StateRows`, but never written to. Every subclass has `status`, (B,) int64."""

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


@dataclass(frozen=True)
class NumpyContext(NumpyRows):
    """As `prior.interface.Context`.

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


@dataclass(frozen=True)
class NumpyFlatState(NumpyRows):
    """The state of a flat prior, as `prior.flat.flat_prior.FlatState` but with the oldest frame first.

    Attributes:
        keys: (B, L, F, d, M*S) of L layers, F heads of keys and values and the last M frames of S positions.
        values: (B, L, F, M*S, d).
        frame_valid: (B, M) bool, which of those frames are valid.
        codes: (B, h, w) int64 of the last frame, V where there is none.
        summary: (B, D), summary of the last valid frame.
        status: (B,) int64.
        times: (B,) int64, frames since the first.
    """

    keys: np.ndarray
    values: np.ndarray
    frame_valid: np.ndarray
    codes: np.ndarray
    summary: np.ndarray
    status: np.ndarray
    times: np.ndarray
