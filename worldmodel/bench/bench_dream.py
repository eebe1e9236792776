"""Whole steps of dreams per second, their latency, memory and arithmetic; and what gymnasium's interfaces cost.

A whole step is termination, status, codes, reward and uint8 pixels of every row.

Shapes: A action size.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from ctypes import CDLL
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from worldmodel.bench.bench_worlds import BenchWorld, random_actions
from worldmodel.bench.timing import Job, Measurement, Progress, median_rate, median_ratio, rate_figures, time_jobs
from worldmodel.dream import DREAM_ID, DreamVectorEnv, Simulator
from worldmodel.dream.cuda_graphs import leaves
from worldmodel.world.world_model import WorldModel

SIMULATOR = "Simulator"
COPY_BYTES = 2**26  # of the copy that measures the memory's rate: more than the caches hold
MATMUL_SIZE = 1024  # rows and columns of the product that measures the rate of arithmetic
NUM_ACTIONS = 64  # steps after which the actions repeat
SINGLE_DREAM_FACTOR = 3  # a single dream is timed so many times as long, for its percentiles

Measured = dict[Any, list[Measurement]]


@dataclass(frozen=True)
class DreamStepper:
    """One interface of a world, with a number of rows.

    Attributes:
        bench: the world.
        interface: "Simulator", "DreamVectorEnv", or `gymnasium.make` of the dream's id.
        batch: rows.
        step: takes a whole step in every row.
        memory_growth: MB by which the process grew at its first steps; None if that is not known.
        bytes_moved: the least bytes a step moves: the weights read once, all rows' state read and written once.
    """

    bench: BenchWorld
    interface: str
    batch: int
    step: Callable[[], object]
    memory_growth: float | None = None
    bytes_moved: int = 0


def bench_dream(
    worlds: Sequence[BenchWorld],
    batches: Sequence[int],
    threads: Sequence[int],
    seconds: float,
    rounds: int,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure all dreams in interleaved rounds.

    Args:
        worlds: the worlds; gymnasium's interfaces are measured on the first.
        batches: numbers of rows.
        threads: numbers of torch's threads; a step uses one for every 16 rows, and no more than these.
        seconds: duration of each measurement; one step at least, and three times as long for one row.
        rounds: repetitions.
        progress: called after every measurement.

    Returns:
        "rows", one for each world, interface, batch and number of threads: whole steps/s of all rows together, the
        median over rounds and its interval. For one row, the percentiles of the latency over all "repetitions". For
        the simulator: multiply-adds of one row's step in matrix products, attention and convolutions, and their
        share of the float32 matmul rate in the same round; "share of roofline", the least possible time of a step
        divided by its time, and what bounds that least time, "matmul" (those multiply-adds at that rate) or "copy"
        (`DreamStepper.bytes_moved` at the rate of a large copy in the same round); by how many MB the process grew
        at its first steps, without the weights (None if the system is not Linux). For the other interfaces: the
        share of the simulator's steps/s in the same round.

        "matmul GFLOP/s" and "copy GB/s" (read and written), by number of threads. "load_before": the machine's load
        average in the minute before; above 0, other processes were running.
    """
    load = os.getloadavg()[0]
    work = {id(bench): multiply_adds(bench.world) for bench in worlds}
    steppers: list[DreamStepper] = []
    for bench, batch in itertools.product(worlds, batches):
        steppers.append(_simulator(bench, batch))
        if bench is worlds[0]:
            steppers += _gymnasium_interfaces(bench, batch)
    measured: Measured = time_jobs(_jobs(steppers, threads, seconds), rounds, progress)
    rows = [
        _row(steppers, i, number, measured, work[id(stepper.bench)])
        for (i, stepper), number in itertools.product(enumerate(steppers), threads)
    ]
    return {
        "rows": rows,
        "matmul GFLOP/s": {str(n): median_rate(measured["matmul", n]) * 2 * MATMUL_SIZE**3 / 1e9 for n in threads},
        "copy GB/s": {str(n): median_rate(measured["copy", n]) * 2 * COPY_BYTES / 1e9 for n in threads},
        "rounds": rounds,
        "load_before": load,
    }


def _jobs(steppers: list[DreamStepper], threads: Sequence[int], seconds: float) -> dict[Any, Job]:
    """By (index of the stepper, threads); and the matmul and the copy, by number of threads."""
    square = torch.randn(MATMUL_SIZE, MATMUL_SIZE)
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8)
    target = torch.empty_like(source)
    jobs: dict[Any, Job] = {}
    for number in threads:
        jobs["matmul", number] = Job(lambda: square @ square, seconds, number)
        jobs["copy", number] = Job(lambda: target.copy_(source), seconds, number)
        for i, stepper in enumerate(steppers):
            factor = SINGLE_DREAM_FACTOR if stepper.batch == 1 else 1
            jobs[i, number] = Job(stepper.step, seconds * factor, number)
    return jobs


def _row(steppers: list[DreamStepper], index: int, threads: int, measured: Measured, adds: int) -> dict[str, Any]:
    """The row of one stepper and number of threads; `adds` are the multiply-adds of one row's step."""
    stepper, found = steppers[index], measured[index, threads]
    row: dict[str, Any] = {
        "prior": stepper.bench.prior,
        "source": stepper.bench.source,
        "interface": stepper.interface,
        "batch": stepper.batch,
        "threads": threads,
        **rate_figures("steps/s", found, stepper.batch),
        **(_latency(found) if stepper.batch == 1 else {}),
    }
    if stepper.interface != SIMULATOR:
        same = (s.bench is stepper.bench and s.batch == stepper.batch for s in steppers)
        simulator = list(same).index(True)  # it precedes the other interfaces
        return row | {"share of Simulator": median_ratio(found, measured[simulator, threads])}
    of_matmul = median_ratio(found, measured["matmul", threads]) * stepper.batch * adds / MATMUL_SIZE**3
    of_copy = median_ratio(found, measured["copy", threads]) * stepper.bytes_moved / (2 * COPY_BYTES)
    return row | {
        "multiply-adds": adds,
        "share of matmul": of_matmul,
        "share of roofline": max(of_matmul, of_copy),
        "bound by": "matmul" if of_matmul >= of_copy else "copy",
        "memory growth MB": stepper.memory_growth,
    }


def multiply_adds(world: WorldModel) -> int:
    """Multiply-adds of one row's whole step, in matrix products, attention and convolutions."""
    simulator = Simulator(world, 1, backend="torch")  # the counter sees torch's operations alone
    simulator.reset()
    # attention as the matrix products it consists of: the counter knows those
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        simulator.step(random_actions(world.spec.action_space, (1,)))
    return counter.get_total_flops() // 2


def _simulator(bench: BenchWorld, batch: int) -> DreamStepper:
    """The simulator (tensors in, tensors out); the process's growth is measured at its first steps."""
    actions, order = _actions(bench.world, batch), itertools.cycle(range(NUM_ACTIONS))
    before = _resident_mb(trim=True)
    simulator = Simulator(bench.world, batch)
    simulator.reset()

    def step() -> None:
        simulator.step(actions[next(order)])

    step()
    step()
    after = _resident_mb()
    growth = None if before is None or after is None else max(0.0, after - before)
    weights = sum(p.numel() * p.element_size() for p in bench.world.parameters())
    state = sum(x.numel() * x.element_size() for x in leaves(simulator.state.prior))
    return DreamStepper(bench, SIMULATOR, batch, step, growth, weights + 2 * state)


def _gymnasium_interfaces(bench: BenchWorld, batch: int) -> list[DreamStepper]:
    """A vector environment and, for a single dream, the environment made by its id."""
    actions, order = _actions(bench.world, batch).numpy(), itertools.cycle(range(NUM_ACTIONS))
    envs = DreamVectorEnv(batch, world=bench.world)
    envs.reset(seed=0)
    steppers = [DreamStepper(bench, "DreamVectorEnv", batch, lambda: envs.step(actions[next(order)]))]
    if batch == 1:
        env = gymnasium.make(DREAM_ID, world=bench.world)
        env.reset(seed=0)

        def step() -> None:
            _, _, terminated, truncated, _ = env.step(actions[next(order), 0])
            if terminated or truncated:
                env.reset()

        steppers.append(DreamStepper(bench, f"make({DREAM_ID!r})", batch, step))
    return steppers


def _actions(world: WorldModel, batch: int) -> torch.Tensor:
    """(NUM_ACTIONS, batch) or (NUM_ACTIONS, batch, A)."""
    return random_actions(world.spec.action_space, (NUM_ACTIONS, batch))


def _latency(measurements: list[Measurement]) -> dict[str, float]:
    """Percentiles of a step's duration over the repetitions of all rounds, and their number."""
    seconds = [s for m in measurements for s in m.seconds]
    percentiles = {f"ms {p} %": 1e3 * float(np.percentile(seconds, p)) for p in (50, 95, 99)}
    return {**percentiles, "repetitions": len(seconds)}


def _resident_mb(trim: bool = False) -> float | None:
    """MB of this process in memory; None if the system is not Linux.

    If freed memory is kept (`worldmodel.common.memory`), this is the peak since the last trimming.

    Args:
        trim: return freed memory to the system first.
    """
    if not sys.platform.startswith("linux"):
        return None
    if trim:
        gc.collect()
        libc = CDLL(None)
        if hasattr(libc, "malloc_trim"):  # glibc
            libc.malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
