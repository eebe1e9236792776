"""Make environments by name, and turn any gymnasium environment into a `PixelEnv`.

Cheap to import: classes are imported when an environment is made.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from worldmodel.common.errors import UserError, unknown_name
from worldmodel.envs.env_registry import EnvRow, rows

if TYPE_CHECKING:
    import gymnasium

    from worldmodel.envs.pixel_env import PixelEnv

# Namespaces that are registered only once their module is imported: namespace -> (module, pip package).
_NAMESPACES = {"ALE": ("ale_py", "ale-py"), "minigrid": ("minigrid", "minigrid")}


def make(name: str, **kwargs: Any) -> PixelEnv:
    """Make an environment.

    Args:
        name: a short name (`toy`, `doom/take-cover`), the id of a row, `doom/<scenario>` for any scenario
            that ViZDoom ships, or any other gymnasium id (`CartPole-v1`, `ALE/Breakout-v5`,
            `package:Env-v0`), which is wrapped by `WrappedEnv`.
        kwargs: override the row's. Every environment has `size`, `crop`, `max_steps` and `render_mode`.

    Returns:
        The environment, without gymnasium's wrappers.

    Raises:
        UserError: an unknown name or argument, a missing package, or an action space that is not supported.
    """
    for row in rows():
        if name in (row.name, row.id):
            return _from_row(row, kwargs)
    if name.startswith("doom/"):
        from worldmodel.envs.doom import DoomEnv

        return _call(name, DoomEnv, {"scenario": name, **kwargs})
    if name.split(":")[-1].startswith("Vizdoom"):
        raise UserError(
            f"environment {name!r}: ViZDoom's own ids show a black picture at the end of an episode; use "
            "'doom/<scenario>' (see 'worldmodel envs'), which repeats the last valid frame with frame_valid=False."
        )
    from worldmodel.envs.wrapped_env import WrappedEnv

    _import_namespace(name)
    _check_known(name)
    return _call(name, WrappedEnv, {"env": name, **kwargs})


def _from_row(row: EnvRow, kwargs: dict[str, Any]) -> PixelEnv:
    from worldmodel.envs.pixel_env import PixelEnv
    from worldmodel.envs.wrapped_env import WrappedEnv

    entry: Any = row.entry_point
    if isinstance(entry, str):
        module, _, attribute = entry.partition(":")
        try:
            entry = getattr(importlib.import_module(module), attribute)
        except ImportError as error:
            package = row.requires or error.name or module
            raise _missing_package(row.name, error.name or str(error), package) from error
    if isinstance(entry, type) and issubclass(entry, PixelEnv):
        return _call(row.name, entry, {**row.kwargs, **kwargs})
    return _call(row.name, WrappedEnv, {"env": row.id, **kwargs})


def _call(name: str, entry: Any, kwargs: dict[str, Any]) -> PixelEnv:
    """Call a constructor; a missing package or an unknown argument becomes a `UserError`."""
    try:
        return entry(**kwargs)
    except ImportError as error:  # gymnasium's DependencyNotInstalled is handled in wrapped_env
        row = next((r for r in rows() if r.name == name), None)
        raise _missing_package(name, error.name or str(error), (row and row.requires) or error.name or "") from error
    except TypeError as error:
        if "unexpected keyword argument" in str(error):
            raise UserError(f"environment {name!r}: {error}.") from error
        raise


def _missing_package(name: str, module: str, package: str) -> UserError:
    return UserError(f"environment {name!r} needs {module}, which is not installed: pip install {package}")


def _import_namespace(name: str) -> None:
    """Import the package of a namespace: gymnasium loads no plugins by itself."""
    namespace = name.split("/")[0] if "/" in name and ":" not in name else ""
    if namespace not in _NAMESPACES:
        return
    module, package = _NAMESPACES[namespace]
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise _missing_package(name, module, package) from error


def is_imported_on_demand(env_id: str) -> bool:
    """Whether an id is registered by a package that is imported when one of its environments is made."""
    return env_id.startswith("Vizdoom") or env_id.partition("/")[0] in _NAMESPACES


def _check_known(name: str) -> None:
    """Refuse an id that is registered neither here nor in gymnasium, with the closest name of both."""
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


def is_factory(env: Any) -> bool:
    """Whether an object makes environments: a class, a function, `functools.partial` and the like."""
    return isinstance(env, type) or (callable(env) and not hasattr(env, "reset"))


def as_pixels(
    env: gymnasium.Env[Any, Any] | Callable[[], Any] | str,
    size: int | tuple[int, int] | None = None,
    crop: tuple[int, int, int, int] | None = None,
    **kwargs: Any,
) -> PixelEnv:
    """Any environment as a `PixelEnv`.

    Args:
        env: a gymnasium environment, a class or function that makes one, or a name for `make`. Wrappers around a
            `PixelEnv` take effect; the other arguments then do not apply.
        size: (rows, columns) of the whole frame before the crop, or one number; 64 x 64 if not given.
        crop: (top, bottom, left, right) of the part that is kept.
        kwargs: for `make` if `env` is a name, for the class if it is a subclass of `PixelEnv`; else `max_steps`,
            `frame_skip` and `render_mode`.

    Returns:
        The environment.

    Raises:
        UserError: not an environment, or arguments that do not apply to it.
    """
    frame = {name: value for name, value in (("size", size), ("crop", crop)) if value is not None}
    options: dict[str, Any] = {**frame, **kwargs}
    if isinstance(env, str):
        return make(env, **options)
    import gymnasium

    from worldmodel.envs.pixel_env import PixelEnv
    from worldmodel.envs.wrapped_env import WrappedEnv
    from worldmodel.envs.wrapped_pixel_env import WrappedPixelEnv, wrappers_of

    if isinstance(env, type) and issubclass(env, PixelEnv):
        return _call(env.__name__, env, options)
    made: Any = env() if is_factory(env) else env  # type: ignore[operator]
    if not isinstance(made, gymnasium.Env):
        raise UserError(
            f"{made!r} is not a gymnasium environment: wanted a single environment (no vector of them), a class or "
            "function that makes one, or a name."
        )
    if not isinstance(made.unwrapped, PixelEnv):
        return WrappedEnv(made, **options)
    refused = [name for name, value in options.items() if value is not None]
    if refused:
        raise UserError(
            f"{', '.join(refused)}: the environment {made.unwrapped.meta.id} is made already, with frames of "
            f"{made.unwrapped.meta.pixels.frame_shape}. Give its arguments where it is made, or pass its name."
        )
    return WrappedPixelEnv(made) if wrappers_of(made) else made.unwrapped
