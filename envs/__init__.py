"""The real worlds: a registry that is open to other packages, and what makes a world of pixels.

Importing this loads neither gymnasium's environments nor ViZDoom; the classes are imported when named.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from worldmodel.envs.builtin import register_all
from worldmodel.envs.registry import EnvRow, lookup, make, policy_defaults, register, rows

if TYPE_CHECKING:
    from worldmodel.envs.foreign import PixelEnv, as_pixels
    from worldmodel.envs.world import Moment, PixelWorld, WorldMeta

_LAZY = {
    "PixelEnv": "foreign",
    "as_pixels": "foreign",
    "Moment": "world",
    "PixelWorld": "world",
    "WorldMeta": "world",
}

__all__ = [
    "EnvRow",
    "Moment",
    "PixelEnv",
    "PixelWorld",
    "WorldMeta",
    "as_pixels",
    "lookup",
    "make",
    "policy_defaults",
    "register",
    "rows",
]

register_all()


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"worldmodel.envs.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
