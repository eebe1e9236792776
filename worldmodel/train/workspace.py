"""Where a training lives: in `<out>.training` until it is done, then `out` appears whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worldmodel.common.errors import UserError
from worldmodel.common.runtime import Runtime
from worldmodel.train.loop import LOGS


def begin(
    out: Path, noun: str, is_ours: Callable[[Path], bool], run: dict[str, Any], force: bool, runtime: Runtime
) -> Path | None:
    """The folder to work in, or None where `out` is what this run made.

    Args:
        out: the directory to make.
        noun: what it will hold, e.g. "world".
        is_ours: whether a directory holds such a thing.
        run: JSON of everything that decides the result; the same run continues, another is refused.
        force: remove another run's remains.
        runtime: of several processes the main one looks and makes the folder.

    Raises:
        UserError: `out` or its folder is another run's.
    """
    folder = out.with_name(f"{out.name}.training")
    finished = False
    if runtime.is_main:
        finished = _finished(out, folder, noun, is_ours, run, force)
        if not finished:
            (folder / LOGS).mkdir(parents=True, exist_ok=True)
            (folder / LOGS / "run.json").write_text(json.dumps(run, indent=1))
    return None if runtime.agree(int(finished)) else folder


def finish(
    out: Path, folder: Path, is_ours: Callable[[Path], bool], save: Callable[[Path, Path], None], force: bool
) -> None:
    """Write the result with its log, then remove the folder.

    Args:
        out: the directory to make.
        folder: what `begin` gave.
        is_ours: as for `begin`.
        save: takes the directory and the log's folder.
        force: replace whatever stands at `out`.
    """
    if force and out.exists() and not is_ours(out):
        shutil.rmtree(out) if out.is_dir() else out.unlink()
    save(out, folder / LOGS)
    shutil.rmtree(folder)


def _finished(
    out: Path, folder: Path, noun: str, is_ours: Callable[[Path], bool], run: dict[str, Any], force: bool
) -> bool:
    def same(path: Path) -> bool:
        try:
            return json.loads((path / "run.json").read_text()) == run
        except (OSError, ValueError):
            return False

    if is_ours(out) and same(out / LOGS):
        shutil.rmtree(folder, ignore_errors=True)
        return True
    taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if taken and not force:
        raise UserError(f"{out} exists and is not this run's {noun}; give another --out, or --force.")
    if folder.exists() and not same(folder / LOGS):
        if (folder / LOGS / "run.json").exists() and not force:
            raise UserError(
                f"{folder} holds another training (other data or settings); give another --out, repeat its "
                "command to continue it, or --force to drop it."
            )
        shutil.rmtree(folder)
    return False
