"""The registry of environments: one row per environment. Other packages can add rows.

Cheap to import: a row names its class by a string, so neither ViZDoom nor gymnasium is loaded before an
environment is made. A machine without gymnasium can read the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from worldmodel.common.errors import UserError, unknown_name


@dataclass(frozen=True)
class EnvRow:
    """One environment.

    Attributes:
        id: gymnasium id, "namespace/Name-v0".
        name: short name for the command line.
        entry_point: "package.module:Class", imported when the environment is made, or the class or function itself.
            It makes a `PixelEnv`, or any gymnasium environment with a supported action space
            (`worldmodel.common.spaces`).
        kwargs: keyword arguments of the entry point.
        action_labels: one label per choice of a Discrete space, else one per component of an action.
        keys: label -> keyboard key, by the names of `KeyboardEvent.key` in browsers; may be empty.
        reward: one sentence that describes the reward.
        requires: the package to `pip install`, or "".
        policy: default parameters by kind of policy, e.g. {"periodic": {"actions": [1, 2], "period": 32}}.
    """

    id: str
    name: str
    entry_point: str | Callable[..., Any]
    kwargs: dict[str, Any] = field(default_factory=dict)
    action_labels: tuple[str, ...] = ()
    keys: dict[str, str] = field(default_factory=dict)
    reward: str = ""
    requires: str = ""
    policy: dict[str, dict[str, Any]] = field(default_factory=dict)


_ROWS: dict[str, EnvRow] = {}  # by id


def register(row: EnvRow) -> None:
    """Register an environment, and its id with gymnasium where gymnasium is installed.

    Registering an identical row again has no effect.

    Raises:
        UserError: the id or the short name belongs to another row, or the entry point is neither "module:Class" nor
            callable.
    """
    if not callable(row.entry_point) and row.entry_point.count(":") != 1:
        raise UserError(
            f"entry_point={row.entry_point!r} of {row.id!r}: wanted 'package.module:Class', a class or a function."
        )
    for other in _ROWS.values():
        if other == row:
            return
        for used in (other.id, other.name):
            if used in (row.id, row.name):
                raise UserError(
                    f"environment {row.id!r} ({row.name!r}) cannot be registered: {used!r} already names "
                    f"{other.id!r} with entry point {other.entry_point!r}. Choose another id and short name."
                )
    _ROWS[row.id] = row
    try:
        import gymnasium
    except ImportError:  # training and stepping of learned worlds need no gymnasium
        return
    if row.id not in gymnasium.registry:
        gymnasium.register(id=row.id, entry_point=row.entry_point, kwargs=dict(row.kwargs))


def rows() -> tuple[EnvRow, ...]:
    """All rows, in order of registration."""
    return tuple(_ROWS.values())


def lookup(name: str) -> EnvRow:
    """The row with this short name or id.

    Raises:
        UserError: no such row; the error names the closest and lists all.
    """
    for row in _ROWS.values():
        if name in (row.name, row.id):
            return row
    raise unknown_name("environment", name, [n for row in rows() for n in (row.name, row.id)])


def action_keys(name: str, labels: tuple[str, ...]) -> tuple[str, ...]:
    """The key of each action label, "" for none; () for an environment without keys.

    Args:
        name: a short name or id.
        labels: the action labels.
    """
    keys = next((row.keys for row in _ROWS.values() if name in (row.name, row.id)), {})
    return tuple(keys.get(label, "") for label in labels) if keys.keys() & set(labels) else ()


def policy_defaults(name: str) -> dict[str, dict[str, Any]]:
    """Default parameters by kind of policy, for a short name or id; {} for an environment without a row."""
    for row in _ROWS.values():
        if name in (row.name, row.id):
            return {kind: dict(params) for kind, params in row.policy.items()}
    return {}
