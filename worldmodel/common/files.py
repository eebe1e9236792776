"""Files that appear whole or not at all, and room for them on the disk."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from worldmodel.common.errors import UserError
from worldmodel.common.text import human_bytes


def expand_path(path: str | os.PathLike[str]) -> Path:
    """The path with a leading "~" or "~user" replaced by the home directory."""
    return Path(os.path.expanduser(path))


def check_free_space(path: str | Path, num_bytes: int, what: str) -> None:
    """Refuse to begin what the disk cannot hold.

    Args:
        path: the file or folder that will be written; it need not exist yet.
        num_bytes: how many bytes will be written there.
        what: what they are, the sentence's subject, e.g. "sealing 'cover.h5'".

    Raises:
        UserError: fewer bytes are free than `num_bytes`.
    """
    folder = Path(path).absolute()
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise UserError(
            f"{what} needs {human_bytes(num_bytes)}, but '{folder}' has {human_bytes(free)} free. "
            f"Free {human_bytes(num_bytes - free)} there or write to another disk."
        )


def sync_folder(folder: Path) -> None:
    """Make a rename or a new name inside `folder` survive a power cut, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Write a file so that it appears under its name whole or not at all.

    Yields a temporary path in the same folder with the same suffix. When the block ends, that file is
    flushed to the disk and renamed over `path`; when the block fails, it is removed and `path` is as it
    was. Missing parent folders are made.

    Example:
        >>> with atomic_path("sheet.png") as temporary:
        ...     image.save(temporary)

    Raises:
        UserError: the folder cannot be written or a folder stands at `path`.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"'{path}' is a folder; wanted the name of a file to write.")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{os.urandom(3).hex()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb"):
            pass
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror}. Choose another place.") from error
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
