"""The registry of environments: one row per environment. Other packages can add rows.

Cheap to import: a row names its class by a string, so neither ViZDoom nor gymnasium is loaded before an
environment is made. A machine without gymnasium can read the rows.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from worldmodel.common.errors import UserError, unknown_name
from worldmodel.common.mirroring import MirrorRule, declare_mirror

ARROW_KEYS = {
    "left": "ArrowLeft",
    "right": "ArrowRight",
    "up": "ArrowUp",
    "down": "ArrowDown",
    "turn_left": "ArrowLeft",
    "turn_right": "ArrowRight",
    "forward": "ArrowUp",
    "backward": "ArrowDown",
    "attack": " ",
}  # keyboard keys of labels that several environments use


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
        policy: default parameters by kind of policy, e.g. {"periodic": {"actions": [1, 2], "period": 32}}. A kind
            with the entry "entry_point", "package.module:Class", is a scripted policy of this environment: the class
            is called with the action space, the environment (None in a dream) and the other entries.
        objects: "package.module:function", the rule that finds small objects in a frame, for the metric of
            permanence; "" for none. The function takes (H, W, 3) uint8 and returns a list of (kind, row, column).
        opposites: pairs of labels of actions that undo each other, for the metric of obedience; LABEL=CHOICE for a
            component of a MultiDiscrete action, as ("turn=0", "turn=10"). The components of a Box action are undone by
            the opposite sign.
        mirror: how actions change where the frame is flipped left to right, for an environment that looks and behaves
            alike in a mirror; None for one that does not. Pairs of labels that are exchanged, as ("left", "right") or
            ("turn=0", "turn=10"), and for a Box the labels of the components that are negated, as ("left",).
        reserved_periods: periods of open-loop play, in steps per action, that recordings leave out, so that worlds can
            be evaluated with play that they have not learned from.
        ladder: policies of the held-out ladder of `eval world`, as the command line names them, with NAME@SHARE for a
            share of random actions. Recordings should contain few of them.
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
    objects: str = ""
    opposites: tuple[tuple[str, str], ...] = ()
    mirror: MirrorRule | None = None
    reserved_periods: tuple[int, ...] = ()
    ladder: tuple[str, ...] = ()


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
    declare_mirror(row.id, row.mirror)
    try:
        import gymnasium
    except ImportError:  # training and stepping of learned worlds need no gymnasium
        return
    if row.id not in gymnasium.registry:
        gymnasium.register(id=row.id, entry_point=row.entry_point, kwargs=dict(row.kwargs))


def row_of(name: str) -> EnvRow | None:
    """The row with this short name or id; None for an environment without a row."""
    return next((row for row in _ROWS.values() if name in (row.name, row.id)), None)


def scripted_policy(entry_point: str) -> Any:
    """The class of a scripted policy.

    Args:
        entry_point: "package.module:Class". It may come from a file, so only those that a row declares are imported.

    Raises:
        UserError: no row declares it.
    """
    declared = {params.get("entry_point") for row in _ROWS.values() for params in row.policy.values()}
    if entry_point not in declared:
        raise UserError(
            f"scripted policy {entry_point!r} belongs to no registered environment; register the environment whose "
            "row declares it."
        )
    return load_entry_point(entry_point)


def load_entry_point(entry_point: str) -> Any:
    """Import "package.module:attribute"."""
    module, _, attribute = entry_point.partition(":")
    return getattr(importlib.import_module(module), attribute)


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
    row = row_of(name)
    keys = {} if row is None else row.keys
    return tuple(keys.get(label, "") for label in labels) if keys.keys() & set(labels) else ()


def policy_defaults(name: str) -> dict[str, dict[str, Any]]:
    """Default parameters by kind of policy, for a short name or id; {} for an environment without a row.

    Those of "periodic" contain the row's reserved periods, if there are any.
    """
    row = row_of(name)
    if row is None:
        return {}
    defaults = {kind: dict(params) for kind, params in row.policy.items()}
    if row.reserved_periods and "periodic" in defaults:
        defaults["periodic"]["reserved_periods"] = row.reserved_periods
    return defaults
