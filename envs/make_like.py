"""The environment of a world or dataset, made again with the same arguments and the same preprocessing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldmodel.common.errors import UserError
from worldmodel.envs.make_env import make

if TYPE_CHECKING:
    from worldmodel.common.pixels import PixelSpec
    from worldmodel.envs.pixel_env import PixelEnv


def make_like(source: Any, **overrides: Any) -> PixelEnv:
    """Make the environment that a world was learned from or a dataset was recorded in.

    Its frames have the same size and crop, and every argument of the recording is passed again: frame skip, skill,
    status bar, limit of steps. A policy can therefore move between it and the dream.

    Args:
        source: a world, its directory or the name of a shipped one; an exported world's directory; a `Dataset` or its
            file.
        overrides: keyword arguments of `make` that replace those of the recording, such as `render_mode`.

    Returns:
        The environment.

    Raises:
        UserError: not a world or dataset, an environment that cannot be made, or one that was recorded inside wrappers.

    Example:
        env = worldmodel.envs.make_like("doom-take-cover-small")
    """
    name, kwargs = env_arguments(source)
    return make(name, **{**kwargs, **overrides})


def env_arguments(source: Any) -> tuple[str, dict[str, Any]]:
    """Name and keyword arguments for `make` of the environment of a world or dataset; see `make_like`."""
    env, kwargs, pixels = recorded_env(source)
    if "wrappers" in kwargs:
        raise UserError(
            f"{env} was recorded inside the wrappers {', '.join(map(str, kwargs['wrappers']))}, which cannot be made "
            "again by name; make the environment, wrap it, and pass it to `worldmodel.envs.as_pixels`."
        )
    arguments = {name: value for name, value in kwargs.items() if name not in ("size", "crop", "env")}
    return env, {**arguments, "size": pixels.size, "crop": pixels.crop}


def recorded_env(source: Any) -> tuple[str, dict[str, Any], PixelSpec]:
    """Id, keyword arguments and pixels of the environment that a world or dataset stores; see `make_like`."""
    if hasattr(source, "spec"):  # a world
        return source.spec.env, source.spec.env_kwargs, source.spec.pixels
    if hasattr(source, "header"):  # a dataset
        return source.header.env, source.header.env_kwargs, source.header.pixels
    if not isinstance(source, str | Path):
        raise UserError(f"make_like({source!r}): wanted a world, a dataset, or the path of one.")
    path = Path(source).expanduser()
    if path.is_file():
        from worldmodel.data import Dataset

        return recorded_env(Dataset(path))
    return _read_spec(path)


def _read_spec(directory: Path) -> tuple[str, dict[str, Any], PixelSpec]:
    """The environment in the config.json of a world or of an exported world; weights are not read."""
    from worldmodel.world.hub import find_world
    from worldmodel.world.world_spec import WorldSpec

    path = find_world(directory) / "config.json"
    try:
        spec = json.loads(path.read_text())["spec"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not of a world or of an exported world, so it names no environment.") from error
    found = WorldSpec.from_json(spec)
    return found.env, found.env_kwargs, found.pixels
