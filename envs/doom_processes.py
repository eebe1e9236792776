"""Game engines as processes: started in private, marked by their run, cleaned up if their owner was killed.

A ViZDoom engine outlives a Python process that dies by SIGKILL, and so do its three files under /dev/shm
(about 10 MB). What belongs to whom is told by two marks:

- the engine's process environment carries the run's token and its owner (pid and start time), and its
  command line carries the instance id that ends the names of its three files;
- with a folder for marks, the owner appends a line before and after each launch, so that files are found
  even if the engine is gone too.

`sweep` touches only what one run marked and whose owner is dead; other runs on the machine are safe.
It works on Linux, through /proc; elsewhere it finds nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import json
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

RUN, OWNER = "WORLDMODEL_RUN", "WORLDMODEL_OWNER"
SCRATCH = "worldmodel-engine-"
_SHM = Path("/dev/shm")
_SHM_NAME = re.compile(r"ViZDoom(?:SM|MQCtr|MQDoom)([A-Za-z0-9]+)")
_WINDOW = 20.0  # seconds after a launch began in which its files may appear
_SETTLED = 1.0  # seconds after which a file that nobody maps is not one that is just being opened


@dataclass
class _Run:
    token: str
    marks: Path | None


_run = _Run(uuid.uuid4().hex, None)
_lock = threading.RLock()
_live: weakref.WeakKeyDictionary[Any, tuple[int, Path]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Removed:
    """What `sweep` removed: engine pids, names of files in /dev/shm, scratch folders."""

    engines: tuple[int, ...] = ()
    shared: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


def set_run(token: str, marks_dir: str | Path | None = None) -> None:
    """Say which run the engines of this process belong to. Call it before the first launch.

    Args:
        token: any text without spaces that is the run's own; processes of one run share it.
        marks_dir: an existing folder of the run in which this process writes its marks; None writes none,
            and then only files of engines that still live can be cleaned up.
    """
    global _run
    _run = _Run(token, None if marks_dir is None else Path(marks_dir))


def run_token() -> str:
    """The token of this process; random unless set."""
    return _run.token


def launch(game: Any, start: Callable[[Path], None]) -> None:
    """Start an engine in a scratch folder of its own, marked as this run's.

    The engine writes a folder and its settings into the working directory, and its library reads overrides
    from there; so the process changes into the scratch folder while `start` runs (a lock keeps launches of
    several threads apart).

    Args:
        game: a `vizdoom.DoomGame`, not running yet.
        start: starts it; gets the scratch folder. What it raises is passed on, all traces removed.
    """
    with _lock:
        scratch = Path(tempfile.mkdtemp(prefix=SCRATCH))
        _mark({"event": "launch", "time": time.time(), "scratch": str(scratch)})
        try:
            with _inside(scratch), _environment({RUN: _run.token, OWNER: _identity(os.getpid())}):
                start(scratch)
            _mark({"event": "running", "instance": game.get_instance_id(), "scratch": str(scratch)})
        except BaseException:  # SystemExit of a SIGTERM too: the engine may run already
            with contextlib.suppress(Exception):
                game.close()
            shutil.rmtree(scratch, ignore_errors=True)
            _mark({"event": "failed", "scratch": str(scratch)})
            raise
        _live[game] = (os.getpid(), scratch)
        finalizer = weakref.finalize(game, _forget, os.getpid(), scratch)
        finalizer.atexit = False  # at exit the engine goes first, then its folder: `_close_all`


def _forget(pid: int, scratch: Path) -> None:
    """A game was collected or closed, and its engine with it."""
    if pid == os.getpid() and scratch.is_dir():
        shutil.rmtree(scratch, ignore_errors=True)
        _mark({"event": "closed", "scratch": str(scratch)})


def close(game: Any) -> None:
    """Close a game of ours and remove its scratch folder; a game that is closed already is left alone."""
    pid, scratch = _live.pop(game, (0, Path()))
    if pid != os.getpid():  # never launched, or inherited through a fork: the parent's
        return
    game.close()
    _forget(pid, scratch)


@atexit.register
def _close_all() -> None:
    for game in list(_live):
        with contextlib.suppress(Exception):  # the process ends: close the others too
            close(game)


def close_on_sigterm() -> None:
    """Let SIGTERM end this process by SystemExit(143), so that its engines are closed. Main thread only."""

    def stop(signum: int, frame: Any) -> NoReturn:
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, stop)


def sweep(token: str, marks_dir: str | Path | None = None) -> Removed:
    """End the engines of a run whose owning Python is dead, and remove what they left behind.

    Args:
        token: the run's.
        marks_dir: the folder that was given to `set_run`.

    Returns:
        What was removed. Engines of living owners, other runs and files that any process still maps stay.
    """
    killed, instances, folders = [], set(), set()
    for pid, instance, scratch in _orphans(token):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _wait_gone(pid)
        killed.append(pid)
        instances.add(instance)
        folders.add(scratch)
    marks = [] if marks_dir is None else [m for m in _read_marks(Path(marks_dir), token) if not m.alive]
    windows: list[float] = []
    for mark in marks:
        instances |= mark.instances
        folders |= mark.scratch
        windows += mark.windows
    shared = _remove_shared(instances, windows)
    removed = tuple(sorted(f for f in folders if _remove_scratch(f)))
    for mark in marks:
        mark.path.unlink(missing_ok=True)
    return Removed(tuple(killed), shared, removed)


# --- marks -------------------------------------------------------------------------------------------------


@dataclass
class _Marks:
    """What one process of a run left open: a launch without an end, an engine without a close."""

    path: Path
    alive: bool
    instances: set[str] = field(default_factory=set)
    scratch: set[str] = field(default_factory=set)
    windows: list[float] = field(default_factory=list)


def _mark(record: dict[str, Any]) -> None:
    """Append one line to this process's file; a single write, whole even if we are killed after it."""
    if _run.marks is None:
        return
    path = _run.marks / f"engines-{_run.token}-{_identity(os.getpid())}.jsonl"
    with open(path, "ab", buffering=0) as file:
        file.write(json.dumps(record).encode() + b"\n")


def _read_marks(folder: Path, token: str) -> Iterator[_Marks]:
    for path in sorted(folder.glob(f"engines-{token}-*.jsonl")):
        marks = _Marks(path, _alive(path.stem.removeprefix(f"engines-{token}-")))
        begun: dict[str, float] = {}
        running: dict[str, str] = {}
        for line in path.read_text(errors="replace").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # the last line of a process that was killed while it wrote
                continue
            scratch = record["scratch"]
            if record["event"] == "launch":
                begun[scratch] = record["time"]
            elif record["event"] == "running":
                running[scratch] = record["instance"]
                begun.pop(scratch, None)
            else:
                begun.pop(scratch, None)
                running.pop(scratch, None)
        marks.instances, marks.scratch = set(running.values()), {*begun, *running}
        marks.windows = list(begun.values())
        yield marks


# --- processes and files -----------------------------------------------------------------------------------


def _identity(pid: int) -> str:
    """pid and start time, which no later process with the same pid shares; "" if there is none such."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return f"{pid}.0" if pid == os.getpid() else ""
    return "" if state in "ZX" else f"{pid}.{rest[18]}"


def _alive(identity: str) -> bool:
    pid = identity.partition(".")[0]
    return pid.isdigit() and _identity(int(pid)) == identity


def _orphans(token: str) -> Iterator[tuple[int, str, str]]:
    """Engines of a run without a living owner: (pid, instance id, scratch folder)."""
    for pid in _pids():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            environment = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if f"{RUN}={token}" not in environment or "+viz_instance_id" not in command:
            continue
        owner = next((e.partition("=")[2] for e in environment if e.startswith(f"{OWNER}=")), "")
        if owner and not _alive(owner):
            instance = command[command.index("+viz_instance_id") + 1]
            config = command[command.index("-config") + 1] if "-config" in command else ""
            yield pid, instance, os.path.dirname(config)


def _pids() -> list[int]:
    proc = Path("/proc")
    return [int(p.name) for p in proc.iterdir() if p.name.isdigit()] if proc.is_dir() else []


def _wait_gone(pid: int, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while _identity(pid) and time.monotonic() < deadline:
        time.sleep(0.01)


def _mapped() -> set[str]:
    """Names in /dev/shm that some process maps."""
    names: set[str] = set()
    for pid in _pids():
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{pid}/maps").read_text(errors="replace")
            names |= {os.path.basename(m) for m in re.findall(r"/dev/shm/ViZDoom\w+", maps)}
    return names


def _remove_shared(instances: set[str], windows: list[float]) -> tuple[str, ...]:
    """Remove files of these instances, or created in one of these launch windows, that nobody maps."""
    candidates: dict[str, float] = {}
    if (instances or windows) and _SHM.is_dir():
        for path in _SHM.iterdir():
            match = _SHM_NAME.fullmatch(path.name)
            with contextlib.suppress(OSError):
                stat = path.stat()
                ours = stat.st_uid == os.getuid() and match is not None
                opened = any(begun - 0.1 <= stat.st_mtime <= begun + _WINDOW for begun in windows)
                if ours and match is not None and (match[1] in instances or opened):
                    candidates[path.name] = stat.st_mtime if match[1] not in instances else 0.0
    if not candidates:
        return ()
    # another collector's file is mapped a moment after it is made: let that moment pass
    time.sleep(min(_SETTLED, max(0.0, max(candidates.values()) + _SETTLED - time.time())))
    mapped = _mapped()
    gone = []
    for name in sorted(set(candidates) - mapped):
        with contextlib.suppress(OSError):
            (_SHM / name).unlink()
            gone.append(name)
    return tuple(gone)


def _remove_scratch(folder: str) -> bool:
    path = Path(folder)
    if not path.name.startswith(SCRATCH) or not path.is_dir():
        return False
    shutil.rmtree(path, ignore_errors=True)
    return True


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in another directory for a while; comes back even if the old one was removed or renamed."""
    before = os.open(".", os.O_RDONLY)
    os.chdir(folder)
    try:
        yield
    finally:
        os.fchdir(before)
        os.close(before)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for a while: a process started meanwhile inherits them."""
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
