"""Writing safetensors files."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from worldmodel.common.files import atomic_path

if TYPE_CHECKING:
    from torch import Tensor


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as a safetensors file, atomically and with the permissions that the umask gives.

    Args:
        path: the file.
        tensors: name -> tensor on any device; tensors must not share memory.
        metadata: text entries of the header of the file.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        write_tensors(temporary, tensors, metadata)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """`save_tensors` for a file that is already temporary: not atomic.

    Raises:
        OSError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    try:
        save_file(content, path, metadata)  # replaces the file by one with mode 0600
    except SafetensorError as error:  # its own class, for a full disk too, with the errno in the text only
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
    path.chmod(mode)
