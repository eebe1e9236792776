"""Errors of the operating system as one sentence each: a full disk, a file too large, a file that cannot be read."""

from __future__ import annotations

import errno
import os
import re

NO_SPACE = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
# How libraries write the error number into their messages: HDF5, then Rust (safetensors).
_ERRNO_IN_TEXT = re.compile(r"errno = (\d+)|\(os error (\d+)\)")
_PATH_IN_TEXT = re.compile(r"filename = '([^']+)'")  # HDF5


def failure_sentence(error: BaseException) -> str | None:
    """A sentence about a failure of the operating system.

    Args:
        error: any exception. Besides OSError, these are recognised: the errors of safetensors and HDF5 that hold the
            system's error number, and the RuntimeError of `torch.save` about a file that could not be written.

    Returns:
        What failed, the reason, and what to do; None if the error is of another kind.
    """
    if isinstance(error, OSError):
        return _sentence(_error_number(error), _path(error), _first_line(error))
    if (isinstance(error, RuntimeError) or type(error).__name__ == "SafetensorError") and _error_number(error):
        return _sentence(_error_number(error), _path(error), _first_line(error))
    if isinstance(error, RuntimeError) and ("inline_container.cc" in str(error) or "PytorchStreamWriter" in str(error)):
        cause = error.__cause__ or error.__context__  # the OSError of a Python file that torch wrote to
        if isinstance(cause, OSError):
            return failure_sentence(cause)
        return _sentence(None, "", "torch could not write a file; the disk may be full")
    return None


def _error_number(error: BaseException) -> int | None:
    """The system's error number, also if it is in the text alone; None if there is none or it is unknown."""
    number = getattr(error, "errno", None)
    if number is None:
        match = _ERRNO_IN_TEXT.search(str(error))
        number = int(match[1] or match[2]) if match else None
    return number if number in errno.errorcode else None


def _path(error: BaseException) -> str:
    """The file that the error names, or ""."""
    attributes = (getattr(error, name, None) for name in ("filename", "filename2"))
    names = [os.fsdecode(name) for name in attributes if isinstance(name, str | bytes | os.PathLike)]
    match = _PATH_IN_TEXT.search(str(error))
    return " -> ".join(names) or (match[1] if match else "")


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def _sentence(number: int | None, path: str, text: str) -> str:
    reason = os.strerror(number) if number is not None else text
    subject = f"{path}: " if path else "cannot write a file: " if number in NO_SPACE else ""
    advice = " Free some space or write to another disk, then run the same command again." if number in NO_SPACE else ""
    return f"{subject}{reason.rstrip('.')}.{advice}"
