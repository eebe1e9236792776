"""Registered environments for worker processes, which start without the registrations of the caller's script.

A worker imports this package, but not the script that called it. What the script registered, here or with
gymnasium, is pickled in the parent and registered again in the worker. Classes of the script itself (`__main__`) are
pickled by value.
"""

from __future__ import annotations

import contextlib
import importlib
import pickle
import sys
from dataclasses import replace
from typing import Any

from worldmodel.common.errors import UserError
from worldmodel.envs.env_registry import EnvRow, register, rows

_IMPORTED_WITH_US = ("gymnasium.", "worldmodel.")  # modules whose registrations every process has
_MAIN = ("__main__", "__mp_main__")


def pickle_registrations(name: str = "") -> bytes:
    """The registrations of this process that a new process lacks.

    Args:
        name: short name or id of an environment that the worker must be able to make; "" for none.

    Returns:
        A pickle for `restore_registrations`. Registrations that cannot be pickled are left out.

    Raises:
        UserError: the registration of `name` cannot be pickled.
    """
    import cloudpickle

    entries: list[tuple[tuple[str, ...], bytes]] = []
    for names, registration in _registrations():
        try:
            entries.append((names, cloudpickle.dumps(registration)))
        except Exception as error:  # the errors of pickle are of many types
            if name in names:
                raise UserError(
                    f"environment {name!r} cannot be sent to other processes ({type(error).__name__}: {error}). "
                    "Define its class in a module, or record it with workers=1."
                ) from error
    return pickle.dumps((name, entries))


def restore_registrations(data: bytes) -> None:
    """Register what `pickle_registrations` returned. Names that are registered already stay unchanged.

    Raises:
        UserError: the environment that the worker must make cannot be imported here.
    """
    name, entries = pickle.loads(data)
    for names, pickled in entries:
        try:
            registration: Any = pickle.loads(pickled)
        except Exception as error:  # whatever the import of a module raises
            if name in names:
                raise UserError(
                    f"environment {name!r} cannot be imported in another process ({type(error).__name__}: {error})."
                ) from error
            continue
        if isinstance(registration, EnvRow):
            with contextlib.suppress(UserError):  # another row has the name here
                register(registration)
        else:
            _gymnasium_registry().setdefault(registration.id, registration)


def _registrations() -> list[tuple[tuple[str, ...], Any]]:
    """(names, row of this package or spec of gymnasium) of everything that other modules registered."""
    found: list[tuple[tuple[str, ...], Any]] = []
    for row in rows():
        if not _is_built_in(row.entry_point):
            found.append(((row.name, row.id), replace(row, entry_point=_without_main(row.entry_point))))
    registered = {name for names, _ in found for name in names}
    for spec in list(_gymnasium_registry().values()):
        if spec.id not in registered and spec.entry_point is not None and not _is_built_in(spec.entry_point):
            copy = replace_entry_point(spec, _without_main(spec.entry_point))
            short = spec.id.rpartition("-v")[0]
            found.append(((spec.id, short), copy))
    return found


def replace_entry_point(spec: Any, entry_point: Any) -> Any:
    """A copy of a gymnasium `EnvSpec` with another entry point."""
    import copy

    copied = copy.copy(spec)
    copied.entry_point = entry_point
    return copied


def _gymnasium_registry() -> dict[str, Any]:
    try:
        from gymnasium.envs.registration import registry
    except ImportError:  # training and stepping of learned worlds need no gymnasium
        return {}
    return registry


def _is_built_in(entry_point: Any) -> bool:
    module = entry_point if isinstance(entry_point, str) else getattr(entry_point, "__module__", "") + "."
    return module.startswith(_IMPORTED_WITH_US)


def _without_main(entry_point: Any) -> Any:
    """The class of an entry point in the caller's script; others unchanged."""
    if isinstance(entry_point, str):
        module, _, attribute = entry_point.partition(":")
        if module in _MAIN and attribute:
            value: Any = sys.modules.get(module) or importlib.import_module(module)
            for part in attribute.split("."):
                value = getattr(value, part)
            return value
    return entry_point
