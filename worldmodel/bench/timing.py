"""Timing in interleaved rounds: a slow moment of the machine affects all jobs of a round alike.

Compare two jobs by the median over rounds of their ratio within a round (`median_ratio`). The interval of a median is
the lowest and the highest round; of five rounds, it covers the true median with a probability of 94 %.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

import torch

Key = TypeVar("Key", bound=Hashable)
T = TypeVar("T")
Progress = Callable[[int, int], None]  # (measurements done, measurements in all)
Clock = Callable[[], float]  # seconds


@dataclass(frozen=True)
class Job:
    """A function to time.

    Attributes:
        run: called once for each repetition.
        seconds: it is repeated for this long in each round; at least once.
        threads: number of torch's threads to run it with; 0 leaves the number unchanged.
    """

    run: Callable[[], object]
    seconds: float
    threads: int = 0


@dataclass(frozen=True)
class Measurement:
    """The duration of each repetition of a job in one round, in seconds."""

    seconds: tuple[float, ...]

    @staticmethod
    def of(job: Job, clock: Clock = time.perf_counter) -> Measurement:
        """Repeat a job until its time is over."""
        begin = last = clock()
        durations: list[float] = []
        while not durations or last - begin < job.seconds:
            job.run()
            now = clock()
            durations.append(now - last)
            last = now
        return Measurement(tuple(durations))

    @property
    def rate(self) -> float:
        """Repetitions per second."""
        return len(self.seconds) / sum(self.seconds)


def interleave(
    measures: Mapping[Key, Callable[[], T]], rounds: int, progress: Progress | None = None
) -> dict[Key, list[T]]:
    """Call every function once in every round: all of the first round, then all of the second.

    Args:
        measures: functions that measure something.
        rounds: R.
        progress: called after every measurement.

    Returns:
        For each key R results.
    """
    results: dict[Key, list[T]] = {key: [] for key in measures}
    total = rounds * len(measures)
    for number in range(rounds):
        for place, (key, measure) in enumerate(measures.items(), start=1):
            results[key].append(measure())
            if progress is not None:
                progress(number * len(measures) + place, total)
    return results


def time_jobs(
    jobs: Mapping[Key, Job],
    rounds: int,
    progress: Progress | None = None,
    clock: Clock = time.perf_counter,
    warm_up_always: bool = False,
) -> dict[Key, list[Measurement]]:
    """Time every job in every round.

    A job runs once untimed in its first round and after a change of torch's threads.

    Args:
        jobs: by any key; jobs with the same number of threads should follow each other.
        rounds: R.
        progress: called after every measurement.
        clock: `time.process_time` counts only this process's own time, whatever else the machine does.
        warm_up_always: run each job once untimed in every round, so that it finds its own data in the CPU's caches.

    Returns:
        For each job R measurements.
    """
    before = torch.get_num_threads()
    warm: set[Key] = set()

    def measure(key: Key, job: Job) -> Measurement:
        change = job.threads not in (0, torch.get_num_threads())
        if change:
            torch.set_num_threads(job.threads)
        if change or warm_up_always or key not in warm:
            job.run()
            warm.add(key)
        return Measurement.of(job, clock)

    def bind(key: Key, job: Job) -> Callable[[], Measurement]:
        return lambda: measure(key, job)

    try:
        return interleave({key: bind(key, job) for key, job in jobs.items()}, rounds, progress)
    finally:
        torch.set_num_threads(before)


def median_rate(measurements: Sequence[Measurement]) -> float:
    """The median over rounds of the repetitions per second."""
    return median(m.rate for m in measurements)


def median_ratio(measurements: Sequence[Measurement], baseline: Sequence[Measurement]) -> float:
    """The median over rounds of a job's rate divided by the baseline's rate in the same round."""
    return median(a.rate / b.rate for a, b in zip(measurements, baseline, strict=True))


def rate_figures(name: str, measurements: Sequence[Measurement], per_repetition: float = 1.0) -> dict[str, Any]:
    """A rate for a row of results: its median over rounds, and the interval of the lowest and the highest round.

    Args:
        name: key of the median, e.g. "steps/s".
        measurements: of one job.
        per_repetition: what one repetition counts for, e.g. the rows of a batch.
    """
    rates = [m.rate * per_repetition for m in measurements]
    return {name: median(rates), f"{name} interval": [min(rates), max(rates)]}


def mean_seconds(run: Callable[[], object], seconds: float, synchronize: Callable[[], None] = lambda: None) -> float:
    """Mean duration of calls that follow each other without waiting, as on a GPU, after three untimed ones.

    Args:
        run: starts the work.
        seconds: it is called for this long, at least three times.
        synchronize: waits until the device has finished; called after every eighth call and at the end.
    """
    for _ in range(3):
        run()
    synchronize()
    begin, calls = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds or calls < 3:
        run()
        calls += 1
        if calls % 8 == 0:
            synchronize()
    synchronize()
    return (time.perf_counter() - begin) / calls
