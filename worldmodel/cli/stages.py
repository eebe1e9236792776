"""Stages of a long command: each leaves a file and is skipped when that file exists, so the same command continues."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from worldmodel.cli.progress import print_status


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: its key in seconds.json.
        description: what it does, for the status line.
        product: the file or directory whose existence means that the stage is finished. It appears atomically, as the
            last thing that the stage writes.
        run: does it. Called again after an interruption, it continues.
    """

    name: str
    description: str
    product: Path
    run: Callable[[], object]


def run_stages(stages: Sequence[Stage], times: Path, after: Callable[[], object] | None = None) -> dict[str, float]:
    """Run the stages that are not finished; what they print goes to stderr.

    Args:
        stages: in order; each may use the products of those before it.
        times: the JSON file of the seconds that each finished stage took.
        after: called after each stage that was run.

    Returns:
        Name -> seconds of the process that finished the stage. Time in killed processes is not counted.
    """
    from worldmodel.common.files import write_json_atomic

    seconds: dict[str, float] = json.loads(times.read_text()) if times.exists() else {}
    for stage in stages:
        if stage.product.exists():
            print_status(f"[{stage.name}] is done: {stage.product}")
            continue
        print_status(f"[{stage.name}] {stage.description}")
        begin = time.monotonic()
        with contextlib.redirect_stdout(sys.stderr):
            stage.run()
        seconds[stage.name] = seconds.get(stage.name, 0.0) + time.monotonic() - begin
        write_json_atomic(times, seconds, indent=None)
        if after is not None:
            after()
    return seconds
