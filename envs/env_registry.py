"""The registry of real worlds: one row per world, open to other packages.

Cheap to import: a row names its class by a string, so neither ViZDoom nor gymnasium is loaded before a
world is made, and a machine without gymnasium can still read the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from worldmodel.common.errors import UserError, unknown_name


@dataclass(frozen=True)
class EnvRow:
    """One world.

    Attributes:
        id: gymnasium id, "namespace/Name-v0".
        name: short name, as the command line takes it.
        entry_point: "package.module:Class", imported when the world is made. A `PixelEnv`, or any
            gymnasium environment with one of the four action spaces.
        kwargs: keyword arguments of the entry point.
        action_labels: a name for each choice of a Discrete space, for each number otherwise.
        keys: label -> keyboard key (the names that browsers give to keys); may be empty.
        reward: one sentence that says what is earned.
        requires: what to `pip install`, or "".
        policy: defaults of policies by kind, e.g. {"periodic": {"actions": [1, 2], "period": 32}}.
    """

    id: str
    name: str
    entry_point: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    action_labels: tuple[str, ...] = ()
    keys: dict[str, str] = field(default_factory=dict)
    reward: str = ""
    requires: str = ""
    policy: dict[str, dict[str, Any]] = field(default_factory=dict)


_ROWS: dict[str, EnvRow] = {}  # by id


def register(row: EnvRow) -> None:
    """Add a world, and its id to gymnasium where gymnasium is installed.

    Registering an identical row again does nothing.

    Raises:
        UserError: the id or the short name belongs to another row, or the entry point is no "module:Class".
    """
    if row.entry_point.count(":") != 1:
        raise UserError(f"entry_point={row.entry_point!r} of {row.id!r}: wanted 'package.module:Class'.")
    for other in _ROWS.values():
        if other == row:
            return
        for taken in (other.id, other.name):
            if taken in (row.id, row.name):
                raise UserError(
                    f"environment {row.id!r} ({row.name!r}) cannot be registered: {taken!r} already names "
                    f"{other.id!r} with entry point {other.entry_point!r}. Choose another id and short name."
                )
    _ROWS[row.id] = row
    try:
        import gymnasium
    except ImportError:  # models and training run on machines without it
        return
    if row.id not in gymnasium.registry:
        gymnasium.register(id=row.id, entry_point=row.entry_point, kwargs=dict(row.kwargs))


def rows() -> tuple[EnvRow, ...]:
    """All rows, in the order in which they were registered."""
    return tuple(_ROWS.values())


def lookup(name: str) -> EnvRow:
    """The row with this short name or id.

    Raises:
        UserError: there is none; names the closest and lists all.
    """
    for row in _ROWS.values():
        if name in (row.name, row.id):
            return row
    raise unknown_name("environment", name, [n for row in rows() for n in (row.name, row.id)])


def policy_defaults(name: str) -> dict[str, dict[str, Any]]:
    """Defaults of policies by kind, for a short name or id; {} for a world without a row."""
    for row in _ROWS.values():
        if name in (row.name, row.id):
            return {kind: dict(params) for kind, params in row.policy.items()}
    return {}
