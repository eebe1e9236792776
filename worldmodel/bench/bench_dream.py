"""Whole steps a second of dreams, their latency, memory and arithmetic; and what gymnasium's faces cost.

A whole step is end, status, codes, reward and uint8 pixels of every row.

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
from worldmodel.bench.timing import Job, Laps, Tell, in_turns, rate, ratio
from worldmodel.dream import DREAM_ID, DreamVectorEnv, Simulator
from worldmodel.dream.tensor_tree import tree_leaves
from worldmodel.world.world_model import WorldModel

SIMULATOR = "Simulator"
COPIED = 2**26  # bytes of the copy whose rate is the measure of memory: more than the caches hold
MATMUL = 1024  # rows and columns of the product whose rate is the measure of arithmetic
ACTIONS = 64  # steps after which the actions come again
ALONE = 3  # a single dream is timed so many times as long, for the sake of its percentiles


@dataclass(frozen=True)
class Stepper:
    """Something that steps some dreams.

    Attributes:
        bench: the world it dreams of.
        way: which face it has.
        batch: rows.
        step: takes a whole step in every row.
        grown: MB by which the process grew at its first steps; None where that is not known.
        moved: bytes that a step cannot but move: the weights read once, all rows' state read and written once.
    """

    bench: BenchWorld
    way: str
    batch: int
    step: Callable[[], object]
    grown: float | None = None
    moved: int = 0


def bench_dream(
    worlds: Sequence[BenchWorld],
    batches: Sequence[int],
    threads: Sequence[int],
    seconds: float,
    rounds: int,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Measure all dreams in turn.

    Args:
        worlds: the worlds; gymnasium's faces are measured on the first.
        batches: rows.
        threads: numbers of torch's threads; a step takes one for every 16 rows, and no more than these.
        seconds: how long each is timed, each time; once at least, and three times as long at batch 1.
        rounds: how often all take turns.
        tell: told of every finished turn.

    Returns:
        "rows", one a world, way, batch and number of threads: whole steps/s of all rows together, the median over
        rounds; at batch 1 the latency's percentiles over all "laps"; multiply-adds of one row's step in matrix
        products, attention and convolutions, and what share they are of the float32 matmul rate in the same
        round; what share the least time of a step is of its time, and which sets that least, "matmul" (those
        multiply-adds at that rate) or "copy" (`Stepper.moved` at the rate of a large copy in the same round); by how
        many MB the process grew at its first steps, the weights not counted (None where the system is not Linux); of
        a face the share of the simulator's steps/s in the same round.

        "matmul GFLOP/s" and "copy GB/s" (read and written): by threads. "load_before": the machine's load average of
        the minute before; above 0, others were at work.
    """
    load = os.getloadavg()[0]
    work = {id(bench): multiply_adds(bench.world) for bench in worlds}
    steppers: list[Stepper] = []
    for bench, batch in itertools.product(worlds, batches):
        steppers.append(_simulator(bench, batch))
        if bench is worlds[0]:
            steppers += _faces(bench, batch)
    square = torch.randn(MATMUL, MATMUL)
    source = torch.zeros(COPIED, dtype=torch.uint8)
    target = torch.empty_like(source)
    jobs: dict[Any, Job] = {}
    for number in threads:
        jobs["matmul", number] = Job(lambda: square @ square, seconds, number)
        jobs["copy", number] = Job(lambda: target.copy_(source), seconds, number)
        for i, stepper in enumerate(steppers):
            jobs[i, number] = Job(stepper.step, seconds * (ALONE if stepper.batch == 1 else 1), number)
    laps = in_turns(jobs, rounds, tell)
    rows: list[dict[str, Any]] = []
    for (i, stepper), number in itertools.product(enumerate(steppers), threads):
        mine, product = laps[i, number], laps["matmul", number]
        row: dict[str, Any] = {
            "prior": stepper.bench.prior,
            "of": stepper.bench.source,
            "way": stepper.way,
            "batch": stepper.batch,
            "threads": number,
            "steps/s": rate(mine) * stepper.batch,
            **(_latency(mine) if stepper.batch == 1 else {}),
        }
        if stepper.way == SIMULATOR:
            adds = work[id(stepper.bench)]
            row["multiply-adds"] = adds
            row["share of matmul"] = ratio(mine, product) * stepper.batch * adds / MATMUL**3
            of_copy = ratio(mine, laps["copy", number]) * stepper.moved / (2 * COPIED)
            row["share of floor"] = max(row["share of matmul"], of_copy)
            row["floor"] = "matmul" if row["share of matmul"] >= of_copy else "copy"
            row["grown MB"] = stepper.grown
        else:
            beside = (s.bench is stepper.bench and s.batch == stepper.batch for s in steppers)
            row["share of Simulator"] = ratio(mine, laps[list(beside).index(True), number])
        rows.append(row)
    return {
        "rows": rows,
        "matmul GFLOP/s": {str(n): rate(laps["matmul", n]) * 2 * MATMUL**3 / 1e9 for n in threads},
        "copy GB/s": {str(n): rate(laps["copy", n]) * 2 * COPIED / 1e9 for n in threads},
        "rounds": rounds,
        "load_before": load,
    }


def multiply_adds(world: WorldModel) -> int:
    """Multiply-adds of one row's whole step, in matrix products, attention and convolutions."""
    simulator = Simulator(world, 1, backend="torch")  # where they are counted
    simulator.reset()
    # attention as the products it is made of: those are counted
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        simulator.step(random_actions(world.spec.action_space, (1,)))
    return counter.get_total_flops() // 2


def _simulator(bench: BenchWorld, batch: int) -> Stepper:
    """Tensors in, tensors out; its memory is measured at its first steps."""
    actions, order = _actions(bench.world, batch), itertools.cycle(range(ACTIONS))
    before = _resident_mb(trim=True)
    simulator = Simulator(bench.world, batch)
    simulator.reset()

    def step() -> None:
        simulator.step(actions[next(order)])

    step()
    step()
    after = _resident_mb()
    grown = None if before is None or after is None else max(0.0, after - before)
    weights = sum(p.numel() * p.element_size() for p in bench.world.parameters())
    state = sum(x.numel() * x.element_size() for x in tree_leaves(simulator.state.prior))
    return Stepper(bench, SIMULATOR, batch, step, grown, weights + 2 * state)


def _faces(bench: BenchWorld, batch: int) -> list[Stepper]:
    """gymnasium's ways: a vector environment and, for a single dream, the environment made by its id."""
    actions, order = _actions(bench.world, batch).numpy(), itertools.cycle(range(ACTIONS))
    envs = DreamVectorEnv(batch, world=bench.world)
    envs.reset(seed=0)
    faces = [Stepper(bench, "DreamVectorEnv", batch, lambda: envs.step(actions[next(order)]))]
    if batch == 1:
        env = gymnasium.make(DREAM_ID, world=bench.world)
        env.reset(seed=0)

        def step() -> None:
            _, _, terminated, truncated, _ = env.step(actions[next(order), 0])
            if terminated or truncated:
                env.reset()

        faces.append(Stepper(bench, f"make({DREAM_ID!r})", batch, step))
    return faces


def _actions(world: WorldModel, batch: int) -> torch.Tensor:
    """(ACTIONS, batch) or (ACTIONS, batch, A)."""
    return random_actions(world.spec.action_space, (ACTIONS, batch))


def _latency(turns: list[Laps]) -> dict[str, float]:
    """Percentiles of a step's duration over all rounds, and how many steps they are from."""
    seconds = [s for turn in turns for s in turn.seconds]
    found = {f"ms {p} %": 1e3 * float(np.percentile(seconds, p)) for p in (50, 95, 99)}
    return {**found, "laps": len(seconds)}


def _resident_mb(trim: bool = False) -> float | None:
    """MB of this process that lie in memory; None where the system is not Linux.

    Where freed memory is kept (`worldmodel.common.memory`) this is the peak since the last trimming.

    Args:
        trim: give freed memory back to the system first.
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
