"""Files of Stable-Baselines3: where they are, their hash and their algorithm. Cheap to import."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from worldmodel.common.errors import UserError
from worldmodel.common.files import expand_path


def find_policy_file(path: Path, option: str = "--init-from") -> Path:
    """The file of a policy: a .zip, or policy.zip, else checkpoint.zip, in a directory.

    Args:
        path: the file or the directory.
        option: names `path` in the error.

    Raises:
        UserError: no such file.
    """
    path = expand_path(path)
    files = [path / name for name in ("policy.zip", "checkpoint.zip")] if path.is_dir() else [path]
    for file in files:
        if file.is_file():
            return file
    wanted = "policy.zip or checkpoint.zip in it" if path.is_dir() else "a file or a directory of `train policy`"
    raise UserError(f"{option} {path}: wanted {wanted}.")


def file_hash(path: Path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def guess_algorithm(path: Path) -> str:
    """The algorithm of an SB3 file, inferred from its hyperparameters: the file does not name it."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            keys = set(json.loads(archive.read("data")))
    except (zipfile.BadZipFile, KeyError, ValueError):
        raise UserError(f"{path} is not a Stable-Baselines3 file (a .zip with 'data' and weights).") from None
    if "clip_range" in keys:
        return "ppo"
    if "target_entropy" in keys:
        return "sac"
    if "exploration_rate" in keys:
        return "dqn"
    return "a2c"
