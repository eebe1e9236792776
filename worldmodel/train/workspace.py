"""The folder `<out>.training`, in which a training works until its result appears atomically at `out`."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from worldmodel.common.directories import DirectoryKind
from worldmodel.common.errors import UserError
from worldmodel.common.files import atomic_path
from worldmodel.common.runtime import Runtime
from worldmodel.prior.prior_registry import PRIORS
from worldmodel.train.training_run import LOG_FOLDER

NO_SPACE = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


@dataclass(frozen=True)
class Workspace:
    """Where one training works and where its result goes.

    Attributes:
        out: the directory to make.
        kind: what the directory will hold.
        force: replace another result at `out`, and remove the files of another training.
    """

    out: Path
    kind: DirectoryKind
    force: bool = False

    @property
    def folder(self) -> Path:
        """The folder to work in."""
        return self.out.with_name(f"{self.out.name}.training")

    def begin(self, identity: dict[str, Any], runtime: Runtime) -> bool:
        """Prepare the folder, or find that the result exists already.

        Args:
            identity: JSON of everything that determines the result. The same training is continued, another one
                is refused.
            runtime: of several processes only the main one inspects and writes.

        Returns:
            Whether there is something to train; False where `out` is the result of this very training.

        Raises:
            UserError: `out` or the folder belongs to another training.
        """
        finished = False
        if runtime.is_main:
            finished = self._is_finished(identity)
            if finished:
                shutil.rmtree(self.folder, ignore_errors=True)
            else:
                self._claim(identity)
        return not runtime.agree(int(finished))

    def finish(self, save: Callable[[Path, Path], None], runtime: Runtime) -> None:
        """Write the result with its log, then remove the folder.

        Args:
            save: called with the directory to make and the log's folder.
            runtime: of several processes the main one writes, and the others wait for it.
        """
        with runtime.main_first() as is_main:
            if not is_main:
                return
            replaced = self.out.with_name(f".{self.out.name}.replaced-{os.getpid()}")
            if self.force and self.out.exists() and not self.kind.is_stored_at(self.out):
                self.out.rename(replaced)
            try:
                save(self.out, self.folder / LOG_FOLDER)
            except BaseException:
                if replaced.exists():
                    replaced.rename(self.out)
                raise
            for old in (self.folder, replaced):
                if old.exists():
                    shutil.rmtree(old) if old.is_dir() else old.unlink()

    def _is_finished(self, identity: dict[str, Any]) -> bool:
        return self.kind.is_stored_at(self.out) and _read_identity(self.out / LOG_FOLDER) == identity

    def _claim(self, identity: dict[str, Any]) -> None:
        """Make the folder, or keep that of the same training; refuse or remove what is in the way."""
        out, folder = self.out, self.folder
        occupied = out.exists() and (not out.is_dir() or any(out.iterdir()))
        if occupied and not self.force:
            raise UserError(f"{out} exists and is not this run's {self.kind.name}; give another --out, or --force.")
        if folder.exists() and _read_identity(folder / LOG_FOLDER) != identity:
            if (folder / LOG_FOLDER / "run.json").exists() and not self.force:
                raise UserError(
                    f"{folder} holds another training (other data or settings); give another --out, repeat its "
                    "command to continue it, or --force to drop it."
                )
            shutil.rmtree(folder)
        with atomic_path(folder / LOG_FOLDER / "run.json") as temporary:
            temporary.write_text(json.dumps(identity, indent=1))


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turn a full disk, wherever a training writes, into one sentence.

    Args:
        out: the directory that the training makes.

    Raises:
        UserError: a file could not be written for lack of space.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = _error_number(error)
        if number not in NO_SPACE:
            raise
        raise UserError(
            f"training cannot write '{out}': {os.strerror(number)}. Free some space (or raise the limit of "
            "`ulimit -f`); the same command continues."
        ) from error


def _error_number(error: Exception) -> int:
    """The system's number of an error; 0 if there is none. Some libraries give it in the text alone."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    match = re.search(r"\[Errno (\d+)\]|os error (\d+)", str(error))  # shutil.copytree, safetensors
    return int(match[1] or match[2]) if match else 0


def _read_identity(log_folder: Path) -> Any:
    """The identity that a log's folder notes, with its prior's config as of this version; None if there is none."""
    try:
        identity = json.loads((log_folder / "run.json").read_text())
        config = identity.get("config", {})
        if row := PRIORS.get(config.get("prior", {}).get("kind")):
            config["prior"] = row.config.upgrade_saved(config["prior"])
        return identity
    except (OSError, ValueError, AttributeError):  # a UserError is a ValueError
        return None
