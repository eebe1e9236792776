"""The cost of each order of groups of the factored prior: whole steps/s and training steps/s at the demo's sizes.

    python benchmarks/order_speed.py --out results/order-speed.json

Random weights, one thread. Seconds are the process's own processor time, all orders are measured in interleaved rounds,
and each figure is the median over rounds. A whole step is termination, status, codes, reward and uint8 pixels of every
row.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from worldmodel.bench.bench_worlds import random_actions, random_clip, random_world
from worldmodel.bench.timing import Job, median_rate, time_jobs
from worldmodel.common.files import atomic_path
from worldmodel.common.memory import keep_freed_memory
from worldmodel.common.run_info import code_version, machine
from worldmodel.dream.simulator import Simulator
from worldmodel.prior import Sampling
from worldmodel.train.presets import DOOM_TAKE_COVER_DEMO

FRAME = (32, 64)  # height and width of the demo's crop: 4 x 8 codes
ORDERS: dict[str, dict[str, Any]] = {
    "frame at once": {"order": "frame"},
    "frame at once, mixture of 8": {"order": "frame", "mixture": 8},
    "groups of 2": {"order": "groups", "num_groups": 2},
    "groups of 4": {"order": "groups", "num_groups": 4},
    "columns": {"order": "columns"},
    "raster": {"order": "raster"},
}


def dream_step(prior: dict[str, Any], rows: int, exact: bool = False) -> Callable[[], object]:
    """A whole step of dreams; `exact`: with the exact likelihood of a mixture."""
    config = replace(DOOM_TAKE_COVER_DEMO, prior=replace(DOOM_TAKE_COVER_DEMO.prior, **prior))
    world = random_world(config, FRAME)
    simulator = Simulator(world, rows, sampling=Sampling(exact=exact))
    actions = random_actions(world.spec.action_space, (rows,))
    simulator.reset()
    return lambda: simulator.step(actions)


def training_step(config: dict[str, Any]) -> Callable[[], object]:
    """A training step of the prior."""
    demo = replace(DOOM_TAKE_COVER_DEMO, prior=replace(DOOM_TAKE_COVER_DEMO.prior, **config))
    world, loop = random_world(demo, FRAME), demo.train_prior
    prior = world.prior.train()
    clip = random_clip(world, loop.batch_size, loop.clip_length, all_frames=False)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=loop.learning_rate)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        prior.loss(clip)["loss"].backward()
        optimizer.step()

    return step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", type=int, default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=1.0, help="processor time of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/order-speed.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    steps: dict[tuple[str, str], tuple[Callable[[], object], int]] = {}  # what is called, and what a call counts for
    for name, prior in ORDERS.items():
        for rows in args.rows:
            steps[name, f"steps/s, {rows} rows"] = dream_step(prior, rows), rows
            if "mixture" in prior:
                steps[f"{name}, exact", f"steps/s, {rows} rows"] = dream_step(prior, rows, exact=True), rows
        steps[name, "training steps/s"] = training_step(prior), 1
    jobs = {key: Job(step, args.seconds) for key, (step, _) in steps.items()}
    measured = time_jobs(jobs, args.rounds, clock=time.process_time, warm_up_always=True)
    table: dict[str, dict[str, float]] = {name: {} for name, _ in steps}
    for (name, figure), found in measured.items():
        table[name][figure] = round(median_rate(found) * steps[name, figure][1], 2)
    for name, row in table.items():
        print(name.ljust(30), "  ".join(f"{figure} {value:,.1f}" for figure, value in row.items()), flush=True)
    origin = {"rounds": args.rounds, "seconds": args.seconds, "machine": machine(), "code_version": code_version()}
    with atomic_path(args.out) as temporary:
        temporary.write_text(json.dumps({"orders": table, **origin}, indent=1) + "\n")


if __name__ == "__main__":
    main()
