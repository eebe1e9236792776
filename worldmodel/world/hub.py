"""The small learned worlds that are shipped with the package, by name. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from worldmodel.common.errors import UserError

SHIPPED_WORLDS = Path(__file__).parent.parent / "worlds"  # one directory per world


def shipped_worlds() -> list[str]:
    """Names of the worlds that are shipped with the package, sorted."""
    return sorted(path.parent.name for path in SHIPPED_WORLDS.glob("*/config.json"))


def with_shipped_names(directory: str | Path) -> Path:
    """The path of a directory, or that of the shipped world whose name it is.

    An existing directory takes precedence over a name. The path of anything else is returned as it is.
    """
    path = Path(directory).expanduser()
    return SHIPPED_WORLDS / str(directory) if not path.is_dir() and str(directory) in shipped_worlds() else path


def find_world(world: str | Path) -> Path:
    """Resolve a path or the name of a shipped world to a directory.

    Args:
        world: a path, such as "runs/cover", or a name, such as "toy". An existing directory takes precedence over
            a name.

    Returns:
        A directory that exists; its content is not checked.

    Raises:
        UserError: there is no such directory and no shipped world of that name.
    """
    path = with_shipped_names(world)
    if path.is_dir():
        return path
    raise UserError(
        f"there is no world directory {path}; give what `worldmodel train world --out` made, or the name of a world "
        f"that comes with the package: {', '.join(shipped_worlds())}."
    )
