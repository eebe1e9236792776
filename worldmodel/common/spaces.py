"""Action spaces as plain data: JSON, gymnasium, and checks of actions. Reading them needs no gymnasium.

Shapes: T steps, A numbers per action. The actions of T steps are (T,) int64 for Discrete, (T, A) int64 for
MultiDiscrete and MultiBinary, (T, A) float32 for Box, (T, 0) int64 for NoAction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from worldmodel.common.errors import UserError
from worldmodel.common.space_kinds import Box, Discrete, MultiBinary, MultiDiscrete, NoAction

if TYPE_CHECKING:
    import gymnasium

__all__ = [
    "Box",
    "Discrete",
    "MultiBinary",
    "MultiDiscrete",
    "NoAction",
    "Space",
    "check_actions",
    "from_gymnasium",
    "from_json",
    "to_gymnasium",
]

FLOAT32_MAX = float(np.finfo(np.float32).max)

Space = Discrete | MultiDiscrete | MultiBinary | Box | NoAction


def from_json(spec: dict[str, Any]) -> Space:
    """Read a space from its JSON form.

    Raises:
        UserError: an unknown kind or an invalid value.
    """
    kind = spec.get("kind") if isinstance(spec, dict) else None
    try:
        if kind == "discrete":
            return Discrete(spec["n"])
        if kind == "multi_discrete":
            return MultiDiscrete(spec["nvec"])
        if kind == "multi_binary":
            return MultiBinary(spec["n"])
        if kind == "box":
            return Box(spec["low"], spec["high"])
        if kind == "none":
            return NoAction()
    except KeyError as error:
        raise UserError(f"action space {spec} has no {error}.") from None
    raise UserError(f"unknown action space kind {kind!r}; known: discrete, multi_discrete, multi_binary, box, none.")


def from_gymnasium(space: gymnasium.Space) -> Space:
    """Translate a gymnasium action space exactly: every action of the result is one of `space`.

    Args:
        space: Discrete or MultiDiscrete counted from 0, MultiBinary, or Box of float32 or float64, each of at most
            one dimension; also subclasses that keep `contains`. An empty MultiDiscrete is `NoAction`.

    Raises:
        UserError: any other space; the message names the supported ones.
    """
    kind = _gymnasium_kind(space)
    original: Any = space
    one_dimensional = len(space.shape or ()) == 1
    if kind == "Discrete" and original.start == 0:
        return Discrete(int(original.n))
    if kind == "MultiDiscrete" and one_dimensional and not np.any(original.start):
        return MultiDiscrete(tuple(original.nvec.tolist())) if len(original.nvec) else NoAction()
    if kind == "MultiBinary" and one_dimensional:
        return MultiBinary(original.shape[0])
    if kind == "Box" and one_dimensional:
        return _from_gymnasium_box(original)
    raise UserError(
        f"action space {space} is not supported: wanted Discrete, MultiDiscrete (both counted from 0), MultiBinary or "
        "Box of one dimension. Wrap the environment so that it takes one of them."
    )


def _gymnasium_kind(space: Any) -> str | None:
    """The name of the gymnasium class that decides which actions the space contains."""
    for cls in type(space).__mro__:
        if "contains" in vars(cls):
            return cls.__name__
    return None


def _from_gymnasium_box(space: Any) -> Box:
    if space.dtype.kind in "iu":
        raise UserError(
            f"action space {space} is not supported: it is a Box of integers, and actions of a Box are stored as "
            "fractions. Wrap the environment so that it takes MultiDiscrete, counted from 0."
        )
    if space.dtype.kind == "b":
        raise UserError(
            f"action space {space} is not supported: it is a Box of truth values. Wrap the environment so that it "
            "takes MultiBinary."
        )
    if space.dtype not in (np.float32, np.float64):
        raise UserError(
            f"action space {space} is not supported: actions of a Box are stored as float32, which {space.dtype} "
            "cannot represent. Wrap the environment so that it takes a Box of float32."
        )
    return Box(
        tuple(None if x <= -FLOAT32_MAX else x for x in space.low.tolist()),
        tuple(None if x >= FLOAT32_MAX else x for x in space.high.tolist()),
    )


def to_gymnasium(space: Space) -> gymnasium.Space:
    """The gymnasium space of the same kind (imports gymnasium).

    A Box is float32 and inside the exact bounds; `NoAction` is an empty MultiDiscrete.
    """
    import gymnasium.spaces as gs

    if isinstance(space, Discrete):
        return gs.Discrete(space.n)
    if isinstance(space, MultiDiscrete):
        return gs.MultiDiscrete(list(space.nvec))
    if isinstance(space, MultiBinary):
        return gs.MultiBinary(space.n)
    if isinstance(space, NoAction):
        return gs.MultiDiscrete(np.zeros(0, np.int64))
    low, high = space.bounds()
    return gs.Box(low.copy(), high.copy(), dtype=np.float32)


def check_actions(space: Space, actions: Any, what: str = "actions") -> np.ndarray:
    """Convert actions to the stored dtype, and refuse actions outside the space.

    Args:
        space: the action space.
        actions: (..., *space.shape), integers (numbers for Box; floats with integral values are not integers).
        what: the subject of the error message.

    Returns:
        (..., *space.shape) int64 or float32. Pass these values to the environment: numbers of a Box are rounded to
        float32, at a bound to a number inside.

    Raises:
        UserError: wrong shape or dtype, not finite, or outside the space.
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
    low, high = space.nearest_bounds if isinstance(space, Box) else space.bounds()
    with np.errstate(over="ignore"):
        array = array.astype(space.dtype)
    bad = ~((array >= low) & (array <= high))
    if not integral:
        bad |= ~np.isfinite(array)
    if bad.any():
        where = np.argwhere(bad)[0]
        raise UserError(f"{what}: {array[tuple(where)]} at {tuple(map(int, where))} is outside {space}.")
    if isinstance(space, Box) and not space.has_float32_bounds:
        array = np.clip(array, *space.bounds())
    return array
