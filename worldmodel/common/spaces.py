"""Action spaces as plain data: four kinds, JSON on disk, no gymnasium needed to read them.

Shapes: T steps, A numbers an action. `actions` of T steps is (T,) int64 for Discrete, (T, A) int64 for
MultiDiscrete and MultiBinary, (T, A) float32 for Box.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from worldmodel.common.errors import UserError

if TYPE_CHECKING:
    import gymnasium


@dataclass(frozen=True)
class Discrete:
    """One of `n` choices, counted from 0."""

    n: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one action: ()."""
        return ()

    @property
    def dtype(self) -> np.dtype:
        """int64."""
        return np.dtype(np.int64)

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(0), np.asarray(self.n - 1)

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """One uniform action, () int64."""
        return np.asarray(rng.integers(self.n), np.int64)

    def to_json(self) -> dict[str, Any]:
        """{"kind": "discrete", "n": n}."""
        return {"kind": "discrete", "n": self.n}


@dataclass(frozen=True)
class MultiDiscrete:
    """A choices at once; the i-th is one of `nvec[i]`, counted from 0."""

    nvec: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one action: (A,)."""
        return (len(self.nvec),)

    @property
    def dtype(self) -> np.dtype:
        """int64."""
        return np.dtype(np.int64)

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(self.shape, np.int64), np.asarray(self.nvec) - 1

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """One uniform action, (A,) int64."""
        return rng.integers(np.asarray(self.nvec)).astype(np.int64)

    def to_json(self) -> dict[str, Any]:
        """{"kind": "multi_discrete", "nvec": [...]}."""
        return {"kind": "multi_discrete", "nvec": list(self.nvec)}


@dataclass(frozen=True)
class MultiBinary:
    """`n` buttons, each 0 or 1."""

    n: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one action: (n,)."""
        return (self.n,)

    @property
    def dtype(self) -> np.dtype:
        """int64."""
        return np.dtype(np.int64)

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(self.n, np.int64), np.ones(self.n, np.int64)

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """One uniform action, (n,) int64."""
        return rng.integers(0, 2, self.n).astype(np.int64)

    def to_json(self) -> dict[str, Any]:
        """{"kind": "multi_binary", "n": n}."""
        return {"kind": "multi_binary", "n": self.n}


@dataclass(frozen=True)
class Box:
    """A real numbers, the i-th within [low[i], high[i]]; None is no bound."""

    low: tuple[float | None, ...]
    high: tuple[float | None, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one action: (A,)."""
        return (len(self.low),)

    @property
    def dtype(self) -> np.dtype:
        """float32."""
        return np.dtype(np.float32)

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        low = np.asarray([-math.inf if x is None else x for x in self.low], np.float32)
        high = np.asarray([math.inf if x is None else x for x in self.high], np.float32)
        return low, high

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """One action, (A,) float32: uniform where both bounds are finite, else standard normal, clipped."""
        low, high = self._bounds()
        finite = np.isfinite(low) & np.isfinite(high)
        uniform = np.where(finite, low, 0) + rng.random(len(low)) * np.where(finite, high - low, 1)
        return np.where(finite, uniform, np.clip(rng.standard_normal(len(low)), low, high)).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """{"kind": "box", "low": [...], "high": [...]}; null is no bound."""
        return {"kind": "box", "low": list(self.low), "high": list(self.high)}


Space = Discrete | MultiDiscrete | MultiBinary | Box


def from_json(spec: dict[str, Any]) -> Space:
    """Read a space from its JSON form.

    Raises:
        UserError: the kind is not one of the four.
    """
    kind = spec.get("kind")
    if kind == "discrete":
        return Discrete(int(spec["n"]))
    if kind == "multi_discrete":
        return MultiDiscrete(tuple(int(n) for n in spec["nvec"]))
    if kind == "multi_binary":
        return MultiBinary(int(spec["n"]))
    if kind == "box":
        return Box(tuple(spec["low"]), tuple(spec["high"]))
    raise UserError(f"unknown action space kind {kind!r}; known: discrete, multi_discrete, multi_binary, box.")


def from_gymnasium(space: gymnasium.Space) -> Space:
    """Translate a gymnasium action space.

    Args:
        space: Discrete and MultiDiscrete starting at 0, MultiBinary or Box, each of at most one dimension.

    Raises:
        UserError: any other space, named, with the four that are accepted.
    """
    kind = type(space).__name__
    if kind == "Discrete" and space.start == 0:  # type: ignore[attr-defined]
        return Discrete(int(space.n))  # type: ignore[attr-defined]
    if kind == "MultiDiscrete" and len(space.shape or ()) == 1 and not np.any(space.start):  # type: ignore[attr-defined]
        return MultiDiscrete(tuple(int(n) for n in space.nvec))  # type: ignore[attr-defined]
    if kind == "MultiBinary" and len(space.shape or ()) == 1:
        return MultiBinary(int(space.shape[0]))  # type: ignore[index]
    if kind == "Box" and len(space.shape or ()) == 1:
        low, high = space.low, space.high  # type: ignore[attr-defined]
        limit = float(np.finfo(np.float32).max)

        def bound(x: float) -> float | None:
            return float(x) if abs(float(x)) < limit else None

        return Box(tuple(bound(x) for x in low), tuple(bound(x) for x in high))
    raise UserError(
        f"action space {space} is not supported: wanted Discrete, MultiDiscrete (both counted from 0), "
        "MultiBinary or Box of one dimension. Wrap the environment so that it takes one of them."
    )


def to_gymnasium(space: Space) -> gymnasium.Space:
    """The gymnasium space of the same kind (imports gymnasium)."""
    import gymnasium.spaces as gs

    if isinstance(space, Discrete):
        return gs.Discrete(space.n)
    if isinstance(space, MultiDiscrete):
        return gs.MultiDiscrete(list(space.nvec))
    if isinstance(space, MultiBinary):
        return gs.MultiBinary(space.n)
    low, high = space._bounds()
    return gs.Box(low, high, dtype=np.float32)


def check_actions(space: Space, actions: Any, what: str = "actions") -> np.ndarray:
    """Bring actions to the stored dtype, refusing what the space does not hold.

    Args:
        space: the action space.
        actions: (..., *space.shape), integers (floats for Box; whole floats are not integers).
        what: how the error calls them.

    Returns:
        The same numbers, (..., *space.shape), int64 or float32.

    Raises:
        UserError: wrong trailing shape, wrong dtype, not finite, or outside the space.
    """
    array = np.asarray(actions)
    tail = array.shape[array.ndim - len(space.shape) :] if space.shape else ()
    if array.ndim < len(space.shape) or tail != space.shape:
        raise UserError(f"{what}: got shape {array.shape}, wanted (..., {space.shape}) for {space}.")
    integral = space.dtype.kind == "i"
    if integral and array.dtype.kind not in "iub":
        raise UserError(f"{what}: got dtype {array.dtype}, wanted integers for {space}.")
    if not integral and array.dtype.kind not in "fiu":
        raise UserError(f"{what}: got dtype {array.dtype}, wanted float32 for {space}.")
    low, high = space._bounds()
    array = array.astype(space.dtype)
    bad = ~((array >= low) & (array <= high))
    if not integral:
        bad |= ~np.isfinite(array)
    if bad.any():
        where = np.argwhere(bad)[0]
        raise UserError(f"{what}: {array[tuple(where)]} at {tuple(map(int, where))} lies outside {space}.")
    return array
