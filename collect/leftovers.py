"""Temporary files that a killed process left behind."""

from __future__ import annotations

import os
import re
from pathlib import Path

_TEMPORARY = re.compile(r"\..+\.(\d+)(-[0-9a-f]{6}\.tmp(\..+)?|\.probe)")  # names of `atomic_path`, with the pid


def remove_leftovers(folder: Path, stem: str = "") -> None:
    """Remove the temporary files of `atomic_path` whose process does not run any more.

    Args:
        folder: the folder of the files; it need not exist.
        stem: remove only those for files whose names begin so.
    """
    if os.name != "posix":
        return
    for path in folder.glob(f".{stem}*"):
        match = _TEMPORARY.fullmatch(path.name)
        if match is not None and not _runs(int(match[1])):
            path.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
