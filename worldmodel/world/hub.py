"""The small learned worlds that come with the package, by name; a leaf, needs no torch."""

from __future__ import annotations

from pathlib import Path

from worldmodel.common.errors import UserError

FOLDER = Path(__file__).parent.parent / "worlds"


def shipped_worlds() -> list[str]:
    """Names that `find_world` knows."""
    return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))


def find_world(world: str | Path) -> Path:
    """The directory that is meant: a directory's path, or else the name of a world that comes with the package.

    Args:
        world: a path, such as "runs/cover", or a name, such as "toy". A path that exists is taken before a name.

    Returns:
        A directory that exists; whether it holds a world is not looked at.

    Raises:
        UserError: neither.
    """
    path = Path(world)
    if path.is_dir():
        return path
    names = shipped_worlds()
    if str(world) in names:
        return FOLDER / str(world)
    raise UserError(
        f"there is no world directory {path}; give what `worldmodel train world --out` made, or the name of a world "
        f"that comes with the package: {', '.join(names)}."
    )
