"""Launch records of ViZDoom engines: what a process of a run launched and did not close."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldmodel.envs.process_identity import is_alive, process_identity


@dataclass
class OpenLaunches:
    """Unfinished launches and unclosed engines of one process, from its launch records."""

    path: Path
    alive: bool
    instances: set[str] = field(default_factory=set)
    scratch: set[str] = field(default_factory=set)
    windows: list[float] = field(default_factory=list)


def append_record(folder: Path, token: str, record: dict[str, Any]) -> None:
    """Append one line to the file of this process, in a single unbuffered write: no kill can split it.

    Args:
        folder: the records folder of the run.
        token: the run's token.
        record: "event" (launch, running, failed or closed), "scratch" and, by event, "time" or "instance".
    """
    path = folder / f"engines-{token}-{process_identity(os.getpid())}.jsonl"
    with open(path, "ab", buffering=0) as file:
        file.write(json.dumps(record).encode() + b"\n")


def read_records(folder: Path, token: str) -> Iterator[OpenLaunches]:
    """The open launches of each process of a run that has a file in the folder."""
    for path in sorted(folder.glob(f"engines-{token}-*.jsonl")):
        open_launches = OpenLaunches(path, is_alive(path.stem.removeprefix(f"engines-{token}-")))
        starting: dict[str, float] = {}
        running: dict[str, str] = {}
        for line in path.read_text(errors="replace").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # an incomplete last line of a killed process
                continue
            scratch = record["scratch"]
            if record["event"] == "launch":
                starting[scratch] = record["time"]
            elif record["event"] == "running":
                running[scratch] = record["instance"]
                starting.pop(scratch, None)
            else:
                starting.pop(scratch, None)
                running.pop(scratch, None)
        open_launches.instances, open_launches.scratch = set(running.values()), {*starting, *running}
        open_launches.windows = list(starting.values())
        yield open_launches
