"""What a dream remembers, in numpy: frozen dataclasses of arrays, one row a dream, none ever written to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np


class NumpyRows:
    """As `prior.interface.StateRows`: keeping one is branching. Every one of them has `status`, (B,) int64."""

    status: np.ndarray

    def select(self, index: np.ndarray) -> Self:
        """Some rows: (n,) int64 -> n rows."""
        return type(self)(**{name: array[index] for name, array in vars(self).items()})

    def scatter(self, index: np.ndarray, fresh: Self) -> Self:
        """These rows with n others in the places (n,)."""
        mixed = {name: array.copy() for name, array in vars(self).items()}
        for name, array in mixed.items():
            array[index] = getattr(fresh, name)
        return type(self)(**mixed)


@dataclass(frozen=True)
class NumpyContext(NumpyRows):
    """As `prior.interface.Context`: (B, W, h, w), (B, W) or (B, W, A), (B, W) bool, (B,)."""

    codes: np.ndarray
    actions: np.ndarray
    has_action: np.ndarray
    status: np.ndarray


@dataclass(frozen=True)
class NumpyFlatState(NumpyRows):
    """What a flat prior remembers, as `prior.flat.FlatState`; keys have their numbers in rows.

    Attributes:
        keys: (B, L, F, d, M*S) of L layers' F heads of keys and values and the last M frames, oldest first.
        values: (B, L, F, M*S, d).
        seen: (B, M) bool, which of those frames are there to be seen.
        codes: (B, h, w) int64 of the last frame, V where there was none.
        summary: (B, D), z of the last frame that was there.
        status: (B,) int64.
        times: (B,) int64, frames since the beginning.
    """

    keys: np.ndarray
    values: np.ndarray
    seen: np.ndarray
    codes: np.ndarray
    summary: np.ndarray
    status: np.ndarray
    times: np.ndarray
