"""ViZDoom engine processes: launch in a scratch folder, attribution to a run, clean-up after a killed owner.

A ViZDoom engine outlives a Python process that is killed by SIGKILL, and so do its three files under /dev/shm
(about 10 MB). Two sources attribute an engine to its run and its owner, the Python process that launched it:

- The engine's process environment has the run's token and the owner (pid and start time), and its command line
  has the instance id, which is the suffix of the names of its three files.
- With a records folder, the owner appends a launch record before and after each launch. With it the files are
  found even if the engine is gone too.

`sweep` removes only what belongs to one run and has a dead owner. Other runs on the machine are not affected.
It reads /proc and therefore works on Linux only; elsewhere it finds nothing.

`set_run` and `sweep` are the interface of `process_manager.ProcessManager`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import signal
import tempfile
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.envs.doom_launch_records import append_record, read_records
from worldmodel.envs.process_identity import is_alive, process_identity, process_ids, wait_until_gone

RUN, OWNER = "WORLDMODEL_RUN", "WORLDMODEL_OWNER"
SCRATCH = "worldmodel-engine-"
_SHM = Path("/dev/shm")
_SHM_NAME = re.compile(r"ViZDoom(?:SM|MQCtr|MQDoom)([A-Za-z0-9]+)")
_WINDOW = 20.0  # seconds after the start of a launch in which its files may appear
_SETTLED = 1.0  # seconds after which a file that no process maps is not just being opened


@dataclass
class _Run:
    token: str
    records_dir: Path | None


_run = _Run(uuid.uuid4().hex, None)
_lock = threading.RLock()
_running_games: weakref.WeakKeyDictionary[Any, tuple[int, Path]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class SweepResult:
    """What `sweep` removed: pids of engines, names of files in /dev/shm, scratch folders."""

    engines: tuple[int, ...] = ()
    shared: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


def set_run(token: str, records_dir: str | Path | None = None) -> None:
    """Set the run that the engines of this process belong to. Call it before the first launch.

    Args:
        token: a text without spaces, unique to the run; all processes of one run share it.
        records_dir: an existing folder of the run, where this process writes its launch records. None writes
            none; then `sweep` finds files of engines that still run only.
    """
    global _run
    _run = _Run(token, None if records_dir is None else Path(records_dir))


def _record(event: str, scratch: Path, **entries: Any) -> None:
    if _run.records_dir is not None:
        append_record(_run.records_dir, _run.token, {"event": event, **entries, "scratch": str(scratch)})


def run_token() -> str:
    """The run token of this process; random unless set."""
    return _run.token


def launch(game: Any, start: Callable[[Path], None]) -> None:
    """Start an engine in its own scratch folder, attributed to this process's run.

    The engine writes a folder and its settings into the working directory, and its library reads overrides
    from there. Therefore the process changes into the scratch folder while `start` runs; a lock serializes the
    launches of several threads.

    Args:
        game: a `vizdoom.DoomGame` that is not running yet.
        start: starts the game; its argument is the scratch folder. Its exceptions are re-raised after clean-up.
    """
    with _lock:
        scratch = Path(tempfile.mkdtemp(prefix=SCRATCH))
        _record("launch", scratch, time=time.time())
        try:
            with _inside(scratch), _environment({RUN: _run.token, OWNER: process_identity(os.getpid())}):
                start(scratch)
            _record("running", scratch, instance=game.get_instance_id())
        except BaseException:  # SystemExit after SIGTERM too: the engine may be running already
            with contextlib.suppress(Exception):
                game.close()
            shutil.rmtree(scratch, ignore_errors=True)
            _record("failed", scratch)
            raise
        _running_games[game] = (os.getpid(), scratch)
        finalizer = weakref.finalize(game, _remove_after_close, os.getpid(), scratch)
        finalizer.atexit = False  # at exit the engine is closed before its folder is removed: `_close_all`


def _remove_after_close(pid: int, scratch: Path) -> None:
    """Remove the scratch folder of a game that was closed or garbage-collected."""
    if pid == os.getpid() and scratch.is_dir():
        shutil.rmtree(scratch, ignore_errors=True)
        _record("closed", scratch)


def close(game: Any) -> None:
    """Close a game that `launch` started and remove its scratch folder. No effect on a closed game."""
    pid, scratch = _running_games.pop(game, (0, Path()))
    if pid != os.getpid():  # never launched, or inherited through a fork: it belongs to the parent
        return
    game.close()
    _remove_after_close(pid, scratch)


@atexit.register
def _close_all() -> None:
    for game in list(_running_games):
        with contextlib.suppress(Exception):  # at exit: close the remaining games too
            close(game)


def sweep(token: str, records_dir: str | Path | None = None) -> SweepResult:
    """Kill the engines of a run whose owner is dead, and remove their files.

    Args:
        token: the run's token.
        records_dir: the folder that was given to `set_run`.

    Returns:
        What was removed. Engines of living owners, other runs, and files that a process maps are kept.
    """
    killed, instances, folders = [], set(), set()
    for pid, instance, scratch in _orphans(token):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_until_gone(pid)
        killed.append(pid)
        instances.add(instance)
        folders.add(scratch)
    dead = [] if records_dir is None else [r for r in read_records(Path(records_dir), token) if not r.alive]
    windows: list[float] = []
    for records in dead:
        instances |= records.instances
        folders |= records.scratch
        windows += records.windows
    shared = _remove_shared(instances, windows)
    removed = tuple(sorted(f for f in folders if _remove_scratch(f)))
    for records in dead:
        records.path.unlink(missing_ok=True)
    return SweepResult(tuple(killed), shared, removed)


# --- processes and files ------------------------------------------------------------------------------------


def _orphans(token: str) -> Iterator[tuple[int, str, str]]:
    """Engines of a run whose owner is dead: (pid, instance id, scratch folder)."""
    for pid in process_ids():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            environment = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if f"{RUN}={token}" not in environment or "+viz_instance_id" not in command:
            continue
        owner = next((e.partition("=")[2] for e in environment if e.startswith(f"{OWNER}=")), "")
        if owner and not is_alive(owner):
            instance = command[command.index("+viz_instance_id") + 1]
            config = command[command.index("-config") + 1] if "-config" in command else ""
            yield pid, instance, os.path.dirname(config)


def _mapped() -> set[str]:
    """Names of ViZDoom's files in /dev/shm that a process maps."""
    names: set[str] = set()
    for pid in process_ids():
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{pid}/maps").read_text(errors="replace")
            names |= {os.path.basename(m) for m in re.findall(r"/dev/shm/ViZDoom\w+", maps)}
    return names


def _remove_shared(instances: set[str], windows: list[float]) -> tuple[str, ...]:
    """Remove unmapped files of these instances, or created in one of these launch windows."""
    candidates: dict[str, float] = {}
    if (instances or windows) and _SHM.is_dir():
        for path in _SHM.iterdir():
            match = _SHM_NAME.fullmatch(path.name)
            with contextlib.suppress(OSError):
                stat = path.stat()
                in_window = any(start - 0.1 <= stat.st_mtime <= start + _WINDOW for start in windows)
                if stat.st_uid == os.getuid() and match is not None and (match[1] in instances or in_window):
                    candidates[path.name] = stat.st_mtime if match[1] not in instances else 0.0
    if not candidates:
        return ()
    # another process maps its file shortly after it creates it: wait until then
    time.sleep(min(_SETTLED, max(0.0, max(candidates.values()) + _SETTLED - time.time())))
    mapped = _mapped()
    removed = []
    for name in sorted(set(candidates) - mapped):
        with contextlib.suppress(OSError):
            (_SHM / name).unlink()
            removed.append(name)
    return tuple(removed)


def _remove_scratch(folder: str) -> bool:
    path = Path(folder)
    if not path.name.startswith(SCRATCH) or not path.is_dir():
        return False
    shutil.rmtree(path, ignore_errors=True)
    return True


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Change the working directory temporarily; works even if the old one is removed or renamed meanwhile."""
    before = os.open(".", os.O_RDONLY)
    os.chdir(folder)
    try:
        yield
    finally:
        os.fchdir(before)
        os.close(before)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables temporarily, for processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
