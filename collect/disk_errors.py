"""A disk that is full or cannot be written, as one sentence."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from worldmodel.common.files import write_error

_NAMES = ("ENOSPC", "EFBIG", "EDQUOT", "EROFS", "EACCES")  # EDQUOT is not known everywhere
DISK_ERRORS = tuple(getattr(errno, name) for name in _NAMES if hasattr(errno, name))


@contextlib.contextmanager
def disk_errors_as_sentence(path: Path) -> Iterator[None]:
    """Convert the errors of a full or read-only disk to `UserError`.

    torch reports them as RuntimeError, with the OSError as context.

    Args:
        path: what is written, for the message.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        code = _disk_error(error)
        if code is None:
            raise
        raise write_error(path, OSError(code, os.strerror(code))) from error


def _disk_error(error: BaseException | None) -> int | None:
    """The errno of a disk error in a chain of exceptions."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            return error.errno
        error = error.__cause__ or error.__context__
    return None
