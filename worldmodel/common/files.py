"""Paths, atomic writing of files and directories, and checks of the free space on the disk."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worldmodel.common.errors import UserError
from worldmodel.common.text import human_bytes

_NO_SPACE = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


def expand_path(path: str | os.PathLike[str]) -> Path:
    """The path with a leading "~" or "~user" replaced by the home directory."""
    return Path(os.path.expanduser(path))


def check_free_space(path: str | Path, num_bytes: int, what: str) -> None:
    """Refuse to write more than the disk has free.

    Args:
        path: the file or folder that will be written; it need not exist yet.
        num_bytes: how many bytes will be written.
        what: the subject of the error message, e.g. "sealing 'cover.h5'".

    Raises:
        UserError: fewer bytes are free than `num_bytes`.
    """
    folder = expand_path(path).absolute()
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise UserError(
            f"{what} needs {human_bytes(num_bytes)}, but '{folder}' has {human_bytes(free)} free. "
            f"Free {human_bytes(num_bytes - free)} there or write to another disk."
        )


def sync_folder(folder: Path) -> None:
    """Flush the directory entries of `folder` to the disk, so that a rename survives a power cut (POSIX only)."""
    if os.name == "posix":
        _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_error(path: str | Path, error: OSError) -> UserError:
    """The `UserError` for a file or folder that could not be written.

    Args:
        path: what was to be written.
        error: the failure; errno and filename may be missing, as in errors of image encoders.
    """
    code = re.search(r"\[Errno (\d+)\]", str(error)) if isinstance(error, shutil.Error) else None
    if code is not None:  # copytree raises a list of (source, target, message)
        error = OSError(int(code[1]), os.strerror(int(code[1])))
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno in _NO_SPACE:
        remedy = "Free some space (or raise the limit of `ulimit -f`) and run the same command again."
    else:
        remedy = "Check the folder, or choose another path."
    return UserError(f"cannot write '{path}': {reason}. {remedy}")


@contextlib.contextmanager
def new_folders(folder: Path) -> Iterator[None]:
    """Create a folder and its missing parents; when the block fails, those that were created and are empty are removed.

    Raises:
        UserError: the folder cannot be created.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]  # innermost first
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    try:
        yield
    except BaseException:
        for path in created:
            with contextlib.suppress(OSError):  # not empty: another process has written to it
                path.rmdir()
        raise


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Write a file atomically.

    Yields a temporary path in the same folder with the same suffix. When the block ends, the temporary file is
    flushed to the disk and renamed to `path`, with the permissions that the umask gives. When the block fails, the
    temporary file is removed and `path` is unchanged. Missing parent folders are created.

    Example:
        >>> with atomic_path("sheet.png") as temporary:
        ...     image.save(temporary)

    Raises:
        UserError: the file cannot be written (an `OSError` of the block is converted unless it names another file), or
            `path` is a folder.
    """
    path = expand_path(path)
    if path.is_dir():
        raise UserError(f"'{path}' is a folder; wanted the name of a file to write.")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{os.urandom(3).hex()}.tmp{path.suffix}")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "xb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            yield temporary
            if stat.S_IMODE(temporary.stat().st_mode) != mode:
                temporary.chmod(mode)  # a writer that replaces the file, as safetensors does, makes it private
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        if _is_elsewhere(error, path, temporary):
            raise
        raise write_error(path, error) from error


@contextlib.contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Write a directory atomically.

    Yields a new, empty directory next to `path`. When the block ends, its files are flushed to the disk and it
    replaces `path`. When the block fails, it is removed and `path` is unchanged. Missing parent folders are created.

    Raises:
        UserError: the directory cannot be written (an `OSError` of the block is converted unless it names another
            file).
    """
    path = expand_path(path)
    fresh = path.with_name(f".{path.name}.new-{os.getpid()}")
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        try:
            yield fresh
            for inner in (*fresh.rglob("*"), fresh) if os.name == "posix" else ():
                _sync(inner)
            if path.exists():
                path.rename(old)
            try:
                fresh.rename(path)
            except BaseException:
                if old.exists():
                    old.rename(path)
                raise
            sync_folder(path.parent)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if _is_elsewhere(error, path, fresh):
            raise
        raise write_error(path, error) from error


def _is_elsewhere(error: OSError, path: Path, temporary: Path) -> bool:
    """Whether an error names a file other than the one that is being written, e.g. an input."""
    if not isinstance(error.filename, str | os.PathLike):
        return False
    named = Path(error.filename)
    return named not in (path, temporary, *path.parents) and temporary not in named.parents


def write_bytes_atomic(path: str | Path, content: bytes) -> Path:
    """Write a file atomically; see `atomic_path`.

    Returns:
        The path of the file.
    """
    path = expand_path(path)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return path


def write_text_atomic(path: str | Path, text: str) -> Path:
    """Write a UTF-8 text file atomically; see `atomic_path`."""
    return write_bytes_atomic(path, text.encode())


def write_json_atomic(path: str | Path, data: Any, indent: int | None = 1) -> Path:
    """Write JSON data and a line feed atomically; see `atomic_path`."""
    return write_text_atomic(path, json.dumps(data, indent=indent) + "\n")
