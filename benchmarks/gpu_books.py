"""The books of a long run: its clock, what was decided once, what every stage found; written as it goes."""

from __future__ import annotations

import json
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from worldmodel.common.errors import UserError
from worldmodel.common.files import atomic_path

T = TypeVar("T")


class Books:
    """A run of stages; the same run in the same folder goes on.

    Args:
        work: where everything lives; `plan.json` and `result.json` are the books.
        out: a copy of the result is put here after every stage.
        run: JSON of what decides the run; another one in the same folder is refused.
        facts: JSON that is put at the head of the result, e.g. the command and the machine.
        seconds: how long this process may take, from now on.

    Raises:
        UserError: `work` holds another run.
    """

    def __init__(self, work: Path, out: Path, run: dict[str, Any], facts: dict[str, Any], seconds: float) -> None:
        self.begun, self.seconds = time.monotonic(), seconds
        self.work, self.out = work, out
        for folder in (work, out):
            folder.mkdir(parents=True, exist_ok=True)
        self.plan: dict[str, Any] = _read(work / "plan.json")
        if self.once("run", lambda: run) != run:
            raise UserError(f"{work} holds another run ({self.plan['run']}); give another --work or remove it.")
        self.result: dict[str, Any] = {**facts, "stages": _read(work / "result.json").get("stages", {})}

    @property
    def left(self) -> float:
        """Seconds that this process still has."""
        return self.seconds - (time.monotonic() - self.begun)

    def say(self, words: str) -> None:
        """A line with the time since the beginning."""
        print(f"[{time.monotonic() - self.begun:6.1f} s] {words}", flush=True)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` says the first time; a run that goes on is told the same again."""
        if name not in self.plan:
            self.plan[name] = make()
            _write(self.work / "plan.json", self.plan)
        return self.plan[name]

    def done(self, name: str) -> bool:
        """Whether a stage has its result."""
        return "figures" in self.result["stages"].get(name, {})

    def stage(
        self, name: str, work: Callable[[], dict[str, Any]], needs: Sequence[str] = (), least: float = 0.0
    ) -> None:
        """Do a stage unless it is done; its failure is noted and leaves the others their chance.

        Args:
            name: its key in the result.
            work: does it; returns its figures, JSON.
            needs: stages that it builds on.
            least: seconds without which it is not begun.
        """
        if self.done(name):
            self.say(f"{name}: done before")
            return
        lacking = [need for need in needs if not self.done(need)]
        if lacking or self.left < least:
            reason = (
                f"it needs {', '.join(lacking)}" if lacking else f"{self.left:.0f} s are left, it needs {least:.0f}"
            )
            self._note(name, {"left_out": reason})
            return
        self.say(f"{name}: begins, {self.left:.0f} s are left")
        begun = time.monotonic()
        try:
            noted: dict[str, Any] = {"figures": work()}
        except Exception as error:
            traceback.print_exc()
            noted = {"error": "".join(traceback.format_exception(error))}
        self._note(name, {"seconds": round(time.monotonic() - begun, 2), **noted})

    def _note(self, name: str, noted: dict[str, Any]) -> None:
        self.result["stages"][name] = noted
        self.result["seconds"] = round(time.monotonic() - self.begun, 1)
        _write(self.work / "result.json", self.result)
        shutil.copyfile(self.work / "result.json", self.out / "result.json")
        how = "failed" if "error" in noted else noted.get("left_out", "done")
        self.say(f"{name}: {how}, {noted.get('seconds', 0)} s")

    @property
    def failed(self) -> list[str]:
        """Stages that ended with an error."""
        return [name for name, noted in self.result["stages"].items() if "error" in noted]


class Pace:
    """Progress of a training, printed now and then; how many steps it took and how fast.

    Args:
        books: where it is printed.
        every: seconds between lines.
    """

    def __init__(self, books: Books, every: float = 10.0) -> None:
        self.books, self.every = books, every
        self.first: tuple[float, int] | None = None
        self.last, self.printed = (0.0, 0), 0.0

    def __call__(self, stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        """As `worldmodel.train.training_run.Progress`."""
        now = time.monotonic()
        self.first = self.first or (now, done)
        self.last = (now, done)
        if now - self.printed > self.every or done == total:
            self.printed = now
            told = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            self.books.say(f"  {stage} {done}/{total or '?'} {told}")

    @property
    def rate(self) -> float | None:
        """Steps a second, data and all; None where too few were told."""
        if self.first is None or self.last[1] == self.first[1]:
            return None
        return (self.last[1] - self.first[1]) / (self.last[0] - self.first[0])


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _write(path: Path, value: Any) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, default=str) + "\n")
