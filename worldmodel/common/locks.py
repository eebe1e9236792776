"""Locks between processes, by lock files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from worldmodel.common.errors import UserError
from worldmodel.common.files import write_error

if TYPE_CHECKING:
    from filelock import BaseFileLock


def acquire_lock(path: Path, refusal: str) -> BaseFileLock:
    """Lock a lock file for this process, or fail at once.

    The operating system releases the lock when the process ends, however it ends. The lock file stays: removing it
    could let two processes lock two files of the same name.

    Args:
        path: the lock file, which is created if missing; its folder must exist.
        refusal: the error message if another process, or another lock of this one, has the lock.

    Returns:
        The lock; call its `release()`.

    Raises:
        UserError: the lock is taken, or the lock file cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(refusal) from error
    except OSError as error:
        raise write_error(path, error) from error
    return lock
