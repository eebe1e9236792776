"""What each way of writing a frame costs: whole steps a second at the demo's sizes, random weights, one thread.

    python benchmarks/order_speed.py --out results/order-speed.json

Seconds are the process's own processor time, all ways take turns in one run, and each figure is the median over
rounds. A whole step is end, status, codes, reward and uint8 pixels of every row.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from worldmodel.bench.bench_worlds import random_actions, random_clip, random_world
from worldmodel.common.files import atomic_path
from worldmodel.common.memory import keep_freed_memory
from worldmodel.common.run_info import code_version, machine
from worldmodel.dream.simulator import Simulator
from worldmodel.prior import Sampling
from worldmodel.train.presets import DOOM_TAKE_COVER_DEMO

FRAME = (32, 64)  # rows and columns of the demo's crop: 4 x 8 codes
WAYS: dict[str, dict[str, Any]] = {
    "frame at once": {"order": "frame"},
    "frame at once, mixture of 8": {"order": "frame", "mixture": 8},
    "groups of 2": {"order": "groups", "num_groups": 2},
    "groups of 4": {"order": "groups", "num_groups": 4},
    "columns": {"order": "columns"},
    "raster": {"order": "raster"},
}


class Stepper:
    """Dreams of one way in so many rows; `exact`: with a mixture's exact likelihood."""

    def __init__(self, way: dict[str, Any], rows: int, exact: bool = False) -> None:
        config = replace(DOOM_TAKE_COVER_DEMO, prior=replace(DOOM_TAKE_COVER_DEMO.prior, **way))
        world = random_world(config, FRAME)
        self.rows, self.simulator = rows, Simulator(world, rows, sampling=Sampling(exact=exact))
        self.actions = random_actions(world.spec.action_space, (rows,))
        self.simulator.reset()

    def run(self) -> int:
        """A step: how much of what is counted it was."""
        self.simulator.step(self.actions)
        return self.rows


class LearnerConfig:
    """Steps of training of one way."""

    def __init__(self, way: dict[str, Any]) -> None:
        config = replace(DOOM_TAKE_COVER_DEMO, prior=replace(DOOM_TAKE_COVER_DEMO.prior, **way))
        world, loop = random_world(config, FRAME), config.train_prior
        self.prior = world.prior.train()
        self.clip = random_clip(world, loop.batch_size, loop.clip_length, all_frames=False)
        self.optimiser = torch.optim.AdamW(self.prior.parameters(), lr=loop.learning_rate)

    def run(self) -> int:
        """A step."""
        self.optimiser.zero_grad(set_to_none=True)
        self.prior.loss(self.clip)["loss"].backward()
        self.optimiser.step()
        return 1


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", type=int, default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=1.0, help="processor time of each way in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/order-speed.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    jobs: dict[tuple[str, str], Stepper | LearnerConfig] = {}
    for name, way in WAYS.items():
        for rows in args.rows:
            jobs[name, f"steps/s, {rows} rows"] = Stepper(way, rows)
            if "mixture" in way:
                jobs[f"{name}, exact", f"steps/s, {rows} rows"] = Stepper(way, rows, exact=True)
        jobs[name, "training steps/s"] = LearnerConfig(way)
    rates: dict[tuple[str, str], list[float]] = {key: [] for key in jobs}
    for _ in range(args.rounds):
        for key, job in jobs.items():
            job.run()  # untimed: the way before had the caches
            begun, done = time.process_time(), 0
            while (passed := time.process_time() - begun) < args.seconds:
                done += job.run()
            rates[key].append(done / passed)
    table: dict[str, dict[str, float]] = {name: {} for name, _ in jobs}
    for (name, what), found in rates.items():
        table[name][what] = round(median(found), 2)
    for name, row in table.items():
        print(name.ljust(30), "  ".join(f"{what} {value:,.1f}" for what, value in row.items()), flush=True)
    about = {"rounds": args.rounds, "seconds": args.seconds, "machine": machine(), "code_version": code_version()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(args.out) as temporary:
        temporary.write_text(json.dumps({"ways": table, **about}, indent=1) + "\n")


if __name__ == "__main__":
    main()
