"""Environments: a registry that other packages can extend, and wrappers that give uint8 RGB frames.

Importing this package loads neither gymnasium's environments nor ViZDoom. The classes are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from worldmodel.envs.builtin_envs import register_all
from worldmodel.envs.env_registry import EnvRow, lookup, policy_defaults, register, rows
from worldmodel.envs.make_env import as_pixels, make
from worldmodel.envs.make_like import make_like

if TYPE_CHECKING:
    from worldmodel.envs.pixel_env import EnvMeta, EnvStep, PixelEnv
    from worldmodel.envs.wrapped_env import WrappedEnv

_LAZY = {
    "WrappedEnv": "wrapped_env",
    "EnvStep": "pixel_env",
    "PixelEnv": "pixel_env",
    "EnvMeta": "pixel_env",
}

__all__ = [
    "EnvMeta",
    "EnvRow",
    "EnvStep",
    "PixelEnv",
    "WrappedEnv",
    "as_pixels",
    "lookup",
    "make",
    "make_like",
    "policy_defaults",
    "register",
    "rows",
]

register_all()


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"worldmodel.envs.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
