"""One offscreen renderer per process (and thread), shared by all environments: a GL context costs 0.3 s and memory.

Backends: EGL, else OSMesa; the environment variable MUJOCO_GL ("egl", "osmesa" or "glfw") chooses one of them. Mesa's
software renderer runs without threads of its own (LP_NUM_THREADS=0 unless set): faster for small pictures, and safe in
a forked process.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import os
import sys
import threading
from typing import Any

import numpy as np

from worldmodel.common.errors import UserError
from worldmodel.envs.push.mujoco_import import NO_OPENGL, mujoco

MAX_GEOMS = 300
HIDDEN_GROUPS = {"main": (2,), "front": ()}  # by camera: groups of geoms that it never sees

_local = threading.local()


class MujocoRenderer:
    """Renders models that have the textures, meshes and visual settings of the first one.

    Args:
        model: the first model.

    Raises:
        UserError: no backend of OpenGL works.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        self._gl = _gl_context()
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._scene = mujoco.MjvScene(model=model, maxgeom=MAX_GEOMS)
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED

    def works(self) -> bool:
        """Whether the GL context can still be used: other code of the process may have ended the display."""
        try:
            self._gl.make_current()
        except Exception:  # GLError, or RuntimeError of the backend
            return False
        return True

    def free(self) -> None:
        """Free the memory of the renderer; it cannot be used afterwards."""
        self._gl.make_current()
        self._context.free()
        self._gl.free()

    def render(self, model: Any, data: Any, camera: str, size: tuple[int, int]) -> np.ndarray:
        """A picture, (rows, columns, 3) uint8.

        Args:
            model: the MjModel.
            data: its MjData, with current positions (`mj_kinematics`, `mj_camlight`).
            camera: name of a camera of the model.
            size: (rows, columns).
        """
        return self._draw(model, data, camera, size)[::-1]

    def segment(self, model: Any, data: Any, camera: str, size: tuple[int, int]) -> np.ndarray:
        """The id of the visible geom at each pixel, (rows, columns) int32, -1 for none; arguments as for `render`."""
        flags = self._scene.flags
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 1
        try:
            colours = self._draw(model, data, camera, size)[::-1].astype(np.int32)
        finally:
            flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 0
        index = colours[..., 0] + (colours[..., 1] << 8) + (colours[..., 2] << 16)  # 0 for the background
        geoms = np.full(self._scene.ngeom + 1, -1, np.int32)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.segid >= 0:
                geoms[geom.segid + 1] = geom.objid
        return geoms[index]

    def _draw(self, model: Any, data: Any, camera: str, size: tuple[int, int]) -> np.ndarray:
        """The picture upside down, as OpenGL stores it."""
        self._gl.make_current()
        rows, columns = size
        if rows > self._context.offHeight or columns > self._context.offWidth:
            width, height = max(columns, self._context.offWidth), max(rows, self._context.offHeight)
            mujoco.mjr_resizeOffscreen(width, height, self._context)
        self._camera.fixedcamid = model.camera(camera).id
        self._option.geomgroup[:] = (1, 1, 1, 0, 0, 0)
        for group in HIDDEN_GROUPS[camera]:
            self._option.geomgroup[group] = 0
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(model, data, self._option, None, self._camera, everything, self._scene)
        viewport = mujoco.MjrRect(0, 0, columns, rows)
        mujoco.mjr_render(viewport, self._scene, self._context)
        picture = np.empty((rows, columns, 3), np.uint8)
        mujoco.mjr_readPixels(picture, None, viewport, self._context)
        return picture


def shared_renderer(model: mujoco.MjModel) -> MujocoRenderer:
    """The renderer of this process and thread, made on first use and again if its display has ended.

    Raises:
        UserError: no backend of OpenGL works.
    """
    renderer = getattr(_local, "renderer", None)
    if renderer is not None and _local.process != os.getpid():
        # forked: the GL context belongs to the parent, so its objects are never freed here
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(renderer))
        renderer = None
    if renderer is not None and not renderer.works():
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(renderer))  # its objects are gone with the display
        renderer = None
        egl: Any = sys.modules.get("mujoco.egl")
        if egl is not None:
            egl.EGL_DISPLAY = None  # the next context opens a new display
    if renderer is None:
        renderer = MujocoRenderer(model)
        _local.renderer, _local.process = renderer, os.getpid()
        atexit.unregister(_free_at_exit)
        atexit.register(_free_at_exit)  # runs before the backend ends its display
    return renderer


def _free_at_exit() -> None:
    """Free the renderer of the main thread; without this the interpreter would do so after the display has ended."""
    renderer = getattr(_local, "renderer", None)
    if renderer is not None and _local.process == os.getpid():
        del _local.renderer
        with contextlib.suppress(Exception):  # the display has ended already: the process frees the rest
            renderer.free()


def _gl_context() -> Any:
    """A GL context of the first backend that works."""
    os.environ.setdefault("LP_NUM_THREADS", "0")
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    failures = []
    for backend in (chosen,) if chosen in ("egl", "osmesa", "glfw") else ("egl", "osmesa"):
        try:
            return _backend_context(backend)
        except Exception as error:  # a missing library raises any of ImportError, AttributeError, OSError, GLError
            failures.append(f"{backend}: {type(error).__name__}: {' '.join(str(error).split())[:100]}")
    raise UserError(f"{NO_OPENGL} ({'; '.join(failures)})")


def _backend_context(backend: str) -> Any:
    """A GL context of one backend. PyOpenGL binds to one platform on import, so a failed attempt is undone."""
    before = os.environ.get("PYOPENGL_PLATFORM")
    loaded = set(sys.modules)
    try:
        return importlib.import_module(f"mujoco.{backend}").GLContext(128, 128)
    except Exception:
        for name in set(sys.modules) - loaded:
            if name.split(".")[0] == "OpenGL" or name.startswith(f"mujoco.{backend}"):
                del sys.modules[name]
        if before is None:
            os.environ.pop("PYOPENGL_PLATFORM", None)
        raise
