"""The registry of real worlds: one row per world, open to other packages.

Cheap to import: a row names its class by a string, so neither ViZDoom nor gymnasium is loaded before a
world is made, and a machine without gymnasium can still read the rows.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from worldmodel.errors import UserError, unknown_name

if TYPE_CHECKING:
    from worldmodel.envs.world import PixelWorld


@dataclass(frozen=True)
class EnvRow:
    """One world.

    Attributes:
        id: gymnasium id, "namespace/Name-v0".
        name: short name, as the command line takes it.
        entry_point: "package.module:Class", imported when the world is made. A `PixelWorld`, or any
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

# Namespaces whose packages do not register themselves: namespace -> (module, what to pip install).
_NAMESPACES = {"ALE": ("ale_py", "ale-py"), "minigrid": ("minigrid", "minigrid")}


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


def make(name: str, **kwargs: Any) -> PixelWorld:
    """Build a world.

    Args:
        name: a short name (`toy`, `doom/take-cover`), the id of a row, `doom/<scenario>` for any scenario
            that ViZDoom ships, or any other gymnasium id (`CartPole-v1`, `ALE/Breakout-v5`,
            `package:Env-v0`), which is wrapped by `PixelEnv`.
        kwargs: override the row's. Every world knows `size`, `crop`, `max_steps` and `render_mode`.

    Returns:
        The world itself, without gymnasium's wrappers.

    Raises:
        UserError: an unknown name, an argument that the world does not know, a missing package, or an
            action space outside the four kinds.
    """
    for row in _ROWS.values():
        if name in (row.name, row.id):
            return _from_row(row, kwargs)
    if name.startswith("doom/"):
        from worldmodel.envs.doom import DoomWorld

        return _call(name, DoomWorld, {"scenario": name, **kwargs})
    if name.split(":")[-1].startswith("Vizdoom"):
        raise UserError(
            f"environment {name!r}: ViZDoom's own ids show a black picture at the end of an episode; use "
            "'doom/<scenario>' (see 'worldmodel envs'), which repeats the last real one and says so."
        )
    from worldmodel.envs.foreign import PixelEnv

    _import_namespace(name)
    _check_known(name)
    return _call(name, PixelEnv, {"env": name, **kwargs})


def _from_row(row: EnvRow, kwargs: dict[str, Any]) -> PixelWorld:
    from worldmodel.envs.foreign import PixelEnv
    from worldmodel.envs.world import PixelWorld

    module, _, attribute = row.entry_point.partition(":")
    try:
        entry = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise _missing(row.name, error.name or str(error), row.requires or error.name or module) from error
    if isinstance(entry, type) and issubclass(entry, PixelWorld):
        return _call(row.name, entry, {**row.kwargs, **kwargs})
    return _call(row.name, PixelEnv, {"env": row.id, **kwargs})


def _call(name: str, entry: Any, kwargs: dict[str, Any]) -> PixelWorld:
    """Call a constructor, turning what a missing package or a wrong argument raises into a sentence."""
    try:
        return entry(**kwargs)
    except ImportError as error:  # gymnasium's DependencyNotInstalled is not one: see foreign.py
        row = next((r for r in _ROWS.values() if r.name == name), None)
        raise _missing(name, error.name or str(error), (row and row.requires) or error.name or "") from error
    except TypeError as error:
        if "unexpected keyword argument" in str(error):
            raise UserError(f"environment {name!r}: {error}.") from error
        raise


def _missing(name: str, module: str, package: str) -> UserError:
    return UserError(f"environment {name!r} needs {module}, which is not installed: pip install {package}")


def _import_namespace(name: str) -> None:
    """Import the package behind a namespace, since gymnasium loads no plugins by itself."""
    namespace = name.split("/")[0] if "/" in name and ":" not in name else ""
    if namespace not in _NAMESPACES:
        return
    module, package = _NAMESPACES[namespace]
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise _missing(name, module, package) from error


def _check_known(name: str) -> None:
    """Refuse an id that neither we nor gymnasium know, with the closest name of both."""
    import gymnasium

    if ":" in name or name in gymnasium.registry:
        return
    try:
        gymnasium.spec(name)  # accepts an id without its version
        return
    except gymnasium.error.Error:
        close = difflib.get_close_matches(name, list(gymnasium.registry), n=1, cutoff=0.8)
        choices = [row.name for row in rows()]
        raise unknown_name("environment", name, [*choices, *close, "any gymnasium id"]) from None
