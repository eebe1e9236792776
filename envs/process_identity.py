"""Identity of processes, from Linux's /proc; elsewhere no process is found."""

from __future__ import annotations

import os
import time
from pathlib import Path


def process_identity(pid: int) -> str:
    """pid and start time, which together identify a process; "" if there is no such process."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return f"{pid}.0" if pid == os.getpid() else ""
    return "" if state in "ZX" else f"{pid}.{rest[18]}"


def is_alive(identity: str) -> bool:
    """Whether the process with this identity still runs."""
    pid = identity.partition(".")[0]
    return pid.isdigit() and process_identity(int(pid)) == identity


def process_ids() -> list[int]:
    """The pids of all processes."""
    proc = Path("/proc")
    return [int(p.name) for p in proc.iterdir() if p.name.isdigit()] if proc.is_dir() else []


def wait_until_gone(pid: int, seconds: float = 5.0) -> None:
    """Wait until no process has this pid, at most so many seconds."""
    deadline = time.monotonic() + seconds
    while process_identity(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
