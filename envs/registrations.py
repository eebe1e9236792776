"""Registered environments for worker processes, which start without the registrations of the caller's script.

A worker imports this package, but not the script that called it. What the script registered, here or with
gymnasium, is pickled in the parent and registered again in the worker. Classes of the script itself (`__main__`) are
pickled by value.
"""

from __future__ import annotations

import copy
import importlib
import pickle
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from worldmodel.common.errors import UserError
from worldmodel.envs.builtin_envs import DOOM_ROWS, TOY_ROWS
from worldmodel.envs.env_registry import EnvRow, register, rows
from worldmodel.envs.make_env import is_imported_on_demand

BUILT_IN_ROWS = (*TOY_ROWS, *DOOM_ROWS)  # every process has them
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
    """Register what `pickle_registrations` returned. What is registered here under the same name is replaced.

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
            register(registration)
        else:
            _gymnasium_registry()[registration.id] = registration


def _registrations() -> Iterator[tuple[tuple[str, ...], Any]]:
    """(names, row of this package or spec of gymnasium) of everything that is registered, but our own rows."""
    for row in rows():
        if row not in BUILT_IN_ROWS:
            yield (row.name, row.id), replace(row, entry_point=_without_main(row.entry_point))
    row_ids = {row.id for row in rows()}
    for spec in list(_gymnasium_registry().values()):
        # a row registers its id with gymnasium too; a worker imports the packages of the others when it needs them,
        # and gymnasium would warn that they are registered twice
        if spec.id not in row_ids and not is_imported_on_demand(spec.id):
            copied = copy.copy(spec)
            copied.entry_point = _without_main(spec.entry_point)
            yield (spec.id, spec.id.rpartition("-v")[0]), copied


def _gymnasium_registry() -> dict[str, Any]:
    try:
        from gymnasium.envs.registration import registry
    except ImportError:  # training and stepping of learned worlds need no gymnasium
        return {}
    return registry


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
