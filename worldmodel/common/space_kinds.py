"""The kinds of action spaces: Discrete, MultiDiscrete, MultiBinary, Box and NoAction.

Shapes: A numbers per action.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from worldmodel.common.errors import UserError


@dataclass(frozen=True)
class Discrete:
    """One of `n` choices, counted from 0."""

    n: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", _positive_int(self.n, "Discrete n"))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one action: ()."""
        return ()

    @property
    def dtype(self) -> np.dtype:
        """int64."""
        return np.dtype(np.int64)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and largest action, () int64 each."""
        return np.asarray(0), np.asarray(self.n - 1)

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """A uniform action, () int64."""
        return np.asarray(rng.integers(self.n), np.int64)

    def to_json(self) -> dict[str, Any]:
        """{"kind": "discrete", "n": n}."""
        return {"kind": "discrete", "n": self.n}


@dataclass(frozen=True)
class MultiDiscrete:
    """A choices at once; the i-th is one of `nvec[i]`, counted from 0."""

    nvec: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "nvec", tuple(_positive_int(n, "MultiDiscrete nvec") for n in _values(self.nvec)))
        if not self.nvec:
            raise UserError("MultiDiscrete nvec is empty; wanted at least one choice.")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one action: (A,)."""
        return (len(self.nvec),)

    @property
    def dtype(self) -> np.dtype:
        """int64."""
        return np.dtype(np.int64)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and largest numbers, (A,) int64 each."""
        return np.zeros(self.shape, np.int64), np.asarray(self.nvec) - 1

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """A uniform action, (A,) int64."""
        return rng.integers(np.asarray(self.nvec)).astype(np.int64)

    def to_json(self) -> dict[str, Any]:
        """{"kind": "multi_discrete", "nvec": [...]}."""
        return {"kind": "multi_discrete", "nvec": list(self.nvec)}


@dataclass(frozen=True)
class MultiBinary:
    """`n` buttons, each 0 or 1."""

    n: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", _positive_int(self.n, "MultiBinary n"))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one action: (n,)."""
        return (self.n,)

    @property
    def dtype(self) -> np.dtype:
        """int64."""
        return np.dtype(np.int64)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and largest numbers, (n,) int64 each."""
        return np.zeros(self.n, np.int64), np.ones(self.n, np.int64)

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """A uniform action, (n,) int64."""
        return rng.integers(0, 2, self.n).astype(np.int64)

    def to_json(self) -> dict[str, Any]:
        """{"kind": "multi_binary", "n": n}."""
        return {"kind": "multi_binary", "n": self.n}


@dataclass(frozen=True)
class Box:
    """A real numbers, the i-th in [low[i], high[i]]; None is no bound.

    Bounds may be float64 numbers; actions are float32 numbers inside the bounds.

    Raises:
        UserError: bounds of different lengths, NaN, or without a float32 number between them.
    """

    low: tuple[float | None, ...]
    high: tuple[float | None, ...]

    def __post_init__(self) -> None:
        for name, unbounded in (("low", -math.inf), ("high", math.inf)):
            bounds = tuple(_bound(x, unbounded, f"Box {name}") for x in _values(getattr(self, name)))
            object.__setattr__(self, name, bounds)
        if len(self.low) != len(self.high) or not self.low:
            raise UserError(
                f"Box has {len(self.low)} low and {len(self.high)} high bounds; wanted as many of both, at least one."
            )
        low, high = self.bounds()
        valid = (low <= high) & (low < math.inf) & (high > -math.inf)
        if not valid.all():
            i = int(np.flatnonzero(~valid)[0])
            raise UserError(
                f"Box [{self.low[i]}, {self.high[i]}] in dimension {i} has no float32 number; wanted low <= high, both "
                "in the range of float32."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one action: (A,)."""
        return (len(self.low),)

    @property
    def dtype(self) -> np.dtype:
        """float32."""
        return np.dtype(np.float32)

    @cached_property
    def exact_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The bounds, (A,) float64 each; infinite where there is no bound."""
        low = np.asarray([-math.inf if x is None else x for x in self.low], np.float64)
        return low, np.asarray([math.inf if x is None else x for x in self.high], np.float64)

    @cached_property
    def nearest_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The bounds rounded to the nearest float32, (A,) each, which may be slightly outside."""
        low, high = self.exact_bounds
        with np.errstate(over="ignore"):
            return low.astype(np.float32), high.astype(np.float32)

    @cached_property
    def has_float32_bounds(self) -> bool:
        """Whether every bound is a float32 number."""
        return all(np.array_equal(a, b) for a, b in zip(self.nearest_bounds, self._inner_bounds, strict=True))

    @cached_property
    def _inner_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        (low, high), (exact_low, exact_high) = self.nearest_bounds, self.exact_bounds
        up, down = np.float32(math.inf), np.float32(-math.inf)
        with np.errstate(over="ignore", under="ignore"):
            low = np.where(low < exact_low, np.nextafter(low, up), low)
            high = np.where(high > exact_high, np.nextafter(high, down), high)
        low.flags.writeable = high.flags.writeable = False  # shared by all callers of `bounds`
        return low, high

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and largest float32 numbers inside the bounds, (A,) each; infinite where there is no bound."""
        return self._inner_bounds

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """A random action, (A,) float32.

        Uniform between two bounds, standard normal without bounds; with one bound, its distance from the bound is the
        absolute value of a standard normal number.
        """
        low, high = self.bounds()
        bounded_below, bounded_above = np.isfinite(low), np.isfinite(high)
        bounded = bounded_below & bounded_above
        with np.errstate(over="ignore", invalid="ignore"):
            width = high - low
        width = np.where(np.isfinite(width), width, high.astype(np.float64) - low)
        uniform = np.where(bounded, low, 0) + rng.random(len(low)) * np.where(bounded, width, 1)
        normal = rng.standard_normal(len(low))
        distance = np.abs(normal)
        open_ended = np.where(bounded_below, low + distance, np.where(bounded_above, high - distance, normal))
        return np.clip(np.where(bounded, uniform, open_ended), low, high).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """{"kind": "box", "low": [...], "high": [...]}; null is no bound."""
        return {"kind": "box", "low": list(self.low), "high": list(self.high)}


@dataclass(frozen=True)
class NoAction:
    """No action: the frames of a plain video follow each other without one. An action has A = 0 numbers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one action: (0,)."""
        return (0,)

    @property
    def dtype(self) -> np.dtype:
        """int64."""
        return np.dtype(np.int64)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Empty bounds, (0,) int64 each."""
        return np.zeros(0, np.int64), np.zeros(0, np.int64)

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """The empty action, (0,) int64."""
        return np.zeros(0, np.int64)

    def to_json(self) -> dict[str, Any]:
        """{"kind": "none"}."""
        return {"kind": "none"}


def _values(values: Any) -> Iterable[Any]:
    if not isinstance(values, Iterable) or isinstance(values, str):
        raise UserError(f"got {values!r} for a list of an action space; wanted one number per dimension.")
    return values


def _positive_int(value: Any, what: str) -> int:
    try:
        number = 0 if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise UserError(f"{what} is {value!r}; wanted an integer of at least 1.")
    return number


def _bound(value: Any, unbounded: float, what: str) -> float | None:
    """A bound as a Python number; None if it is `unbounded`, which is -inf for low and inf for high bounds."""
    number = value.item() if isinstance(value, np.generic | np.ndarray) and np.ndim(value) == 0 else value
    if number is None or number == unbounded:
        return None
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if not is_number or not abs(number) <= sys.float_info.max:
        raise UserError(f"{what} has {value!r}; wanted a finite number, or None for no bound.")
    return number
