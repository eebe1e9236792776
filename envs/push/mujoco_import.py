"""Imports mujoco. With MUJOCO_GL set, mujoco loads that backend of OpenGL on import and fails without its library."""

from __future__ import annotations

import os

from worldmodel.common.errors import UserError

NO_OPENGL = (
    "MuJoCo cannot render: no OpenGL for EGL or OSMesa was found. On Debian or Ubuntu run 'apt-get install libegl1 "
    "libopengl0 libgl1-mesa-dri' (EGL) or 'apt-get install libosmesa6' (OSMesa)."
)

try:
    import mujoco
except ImportError:
    raise  # `worldmodel.envs.make` names the package to install
except Exception as error:  # PyOpenGL raises an AttributeError for a missing library
    backend = os.environ.get("MUJOCO_GL")
    raise UserError(f"{NO_OPENGL} (MUJOCO_GL={backend}: {type(error).__name__}: {error})") from error

__all__ = ["NO_OPENGL", "mujoco"]
