"""Jobs timed in turns, so that a slow moment of the machine hits all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import torch

Key = TypeVar("Key", bound=Hashable)
Tell = Callable[[int, int], None]  # (turns done, turns in all)


@dataclass(frozen=True)
class Job:
    """Something to time.

    Attributes:
        run: does it once.
        seconds: how long it is repeated in each of its turns; once at least.
        threads: torch's threads it is done with; 0 leaves them as they are.
    """

    run: Callable[[], object]
    seconds: float
    threads: int = 0


@dataclass(frozen=True)
class Laps:
    """The seconds of each repetition in one turn."""

    seconds: tuple[float, ...]

    @staticmethod
    def of(job: Job) -> Laps:
        """Repeat a job until its time has passed."""
        begun = last = time.perf_counter()
        laps: list[float] = []
        while not laps or last - begun < job.seconds:
            job.run()
            now = time.perf_counter()
            laps.append(now - last)
            last = now
        return Laps(tuple(laps))

    @property
    def rate(self) -> float:
        """Repetitions a second."""
        return len(self.seconds) / sum(self.seconds)


def in_turns(jobs: dict[Key, Job], rounds: int, tell: Tell | None = None) -> dict[Key, list[Laps]]:
    """Time every job in every round; each is done once before, untimed, in the first and after a change of threads.

    Args:
        jobs: by any key; those with the same number of threads stand together.
        rounds: how often all take turns.
        tell: told of every finished turn.

    Returns:
        Per job and round its laps.
    """
    laps: dict[Key, list[Laps]] = {key: [] for key in jobs}
    before = threads = torch.get_num_threads()
    try:
        for turn in range(rounds):
            for place, (key, job) in enumerate(jobs.items()):
                changed = job.threads not in (0, threads)
                if changed:
                    threads = job.threads
                    torch.set_num_threads(threads)
                if changed or not turn:
                    job.run()
                laps[key].append(Laps.of(job))
                if tell is not None:
                    tell(turn * len(jobs) + place + 1, rounds * len(jobs))
    finally:
        torch.set_num_threads(before)
    return laps


def rate(laps: list[Laps]) -> float:
    """The median over rounds of the repetitions a second."""
    return median(turn.rate for turn in laps)


def ratio(laps: list[Laps], others: list[Laps]) -> float:
    """The median over rounds of a job's repetitions a second, in another's of the same round."""
    return median(a.rate / b.rate for a, b in zip(laps, others, strict=True))
