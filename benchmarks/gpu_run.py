"""A run of several stages with a time budget: its clock, its decisions, and the result of each stage, saved as it goes.

The same run in the same folder continues after it was killed.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from worldmodel.common.errors import UserError
from worldmodel.common.files import atomic_path

T = TypeVar("T")


class StagedRun:
    """A run of stages.

    Args:
        work: the working folder; `plan.json` (decisions) and `result.json` are saved there.
        out: `result.json` is copied there after every stage.
        settings: JSON that identifies the run; another run in the same folder is refused.
        facts: JSON at the head of the result, e.g. the command and the machine.
        seconds: how long this process may take, from now on.

    Raises:
        UserError: `work` holds a run with other settings.
    """

    def __init__(self, work: Path, out: Path, settings: dict[str, Any], facts: dict[str, Any], seconds: float) -> None:
        self.begin, self.seconds = time.monotonic(), seconds
        self.work, self.out = work, out
        for folder in (work, out):
            folder.mkdir(parents=True, exist_ok=True)
        self.plan: dict[str, Any] = _read(work / "plan.json")
        if self.once("run", lambda: settings) != settings:
            raise UserError(f"{work} holds another run ({self.plan['run']}); give another --work or remove it.")
        self.result: dict[str, Any] = {**facts, "stages": _read(work / "result.json").get("stages", {})}

    @property
    def seconds_left(self) -> float:
        """Seconds that this process still has."""
        return self.seconds - (time.monotonic() - self.begin)

    def print(self, line: str) -> None:
        """Print a line with the time since the beginning."""
        print(f"[{time.monotonic() - self.begin:6.1f} s] {line}", flush=True)

    def once(self, name: str, decide: Callable[[], T]) -> T:
        """A decision: what `decide` returned the first time, also after the run was killed and continued."""
        if name not in self.plan:
            self.plan[name] = decide()
            _write(self.work / "plan.json", self.plan)
        return self.plan[name]

    def is_done(self, name: str) -> bool:
        """Whether a stage has its result."""
        return "figures" in self.result["stages"].get(name, {})

    def stage(
        self, name: str, work: Callable[[], dict[str, Any]], needs: Sequence[str] = (), min_seconds: float = 0.0
    ) -> None:
        """Run a stage unless it is done. If it fails, the error is saved and the next stages still run.

        Args:
            name: its key in the result.
            work: does it; returns its figures, JSON.
            needs: stages that must be done before.
            min_seconds: without so many seconds left, the stage is left out.
        """
        if self.is_done(name):
            self.print(f"{name}: done before")
            return
        missing = [need for need in needs if not self.is_done(need)]
        if missing or self.seconds_left < min_seconds:
            reason = f"{self.seconds_left:.0f} s are left, it needs {min_seconds:.0f}"
            self._save(name, {"left_out": f"it needs {', '.join(missing)}" if missing else reason})
            return
        self.print(f"{name}: begins, {self.seconds_left:.0f} s are left")
        begin = time.monotonic()
        try:
            entry: dict[str, Any] = {"figures": work()}
        except Exception as error:
            traceback.print_exc()
            entry = {"error": "".join(traceback.format_exception(error))}
        self._save(name, {"seconds": round(time.monotonic() - begin, 2), **entry})

    def _save(self, name: str, entry: dict[str, Any]) -> None:
        self.result["stages"][name] = entry
        self.result["seconds"] = round(time.monotonic() - self.begin, 1)
        _write(self.work / "result.json", self.result)
        shutil.copyfile(self.work / "result.json", self.out / "result.json")
        outcome = "failed" if "error" in entry else entry.get("left_out", "done")
        self.print(f"{name}: {outcome}, {entry.get('seconds', 0)} s")

    @property
    def failed(self) -> list[str]:
        """Stages that ended with an error."""
        return [name for name, entry in self.result["stages"].items() if "error" in entry]


class TrainingProgress:
    """Progress of a training, printed now and then; and how many steps per second it took.

    Args:
        run: where it is printed.
        every: seconds between lines.

    Attributes:
        metrics: those of the last step that was logged.
    """

    def __init__(self, run: StagedRun, every: float = 10.0) -> None:
        self.run, self.every = run, every
        self.first: tuple[float, int] | None = None
        self.last, self.printed = (0.0, 0), 0.0
        self.metrics: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        """Called by training after each step."""
        now = time.monotonic()
        self.first = self.first or (now, done)
        self.last, self.metrics = (now, done), figures
        if now - self.printed > self.every or done == total:
            self.printed = now
            text = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            self.run.print(f"  {stage} {done}/{total or '?'} {text}")

    @property
    def num_steps(self) -> int:
        """Steps done."""
        return self.last[1]

    @property
    def rate(self) -> float | None:
        """Steps per second, the loading of data included; None after fewer than two steps."""
        if self.first is None or self.last[1] == self.first[1]:
            return None
        return (self.last[1] - self.first[1]) / (self.last[0] - self.first[0])


def run_facts(device: Any) -> dict[str, Any]:
    """The head of a result: command, versions, machine and device."""
    import torch

    from worldmodel.common.run_info import code_version, machine, versions

    facts: dict[str, Any] = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "code_version": code_version(),
        "versions": versions() | {"torch": torch.__version__, "python": platform.python_version()},
        "machine": machine(),
        "device": str(device),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {"device_name": properties.name, "device_memory_gb": round(properties.total_memory / 2**30, 1)}
        facts["cuda"] = torch.version.cuda
    return facts


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _write(path: Path, value: Any) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, default=str) + "\n")
