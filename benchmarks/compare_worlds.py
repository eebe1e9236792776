"""Which world is best after the same training: orders of groups, the flat prior, crop, history noise, weights.

    python benchmarks/compare_worlds.py --data cover.h5 --work runs/compare --out results/compare-worlds.json
    python benchmarks/compare_worlds.py --data cover.h5 --only columns --seeds 1 2     (the best row, twice more)

Every row trains with one thread for the same processor time, on the same recordings with the same seed; rows with the
same frames share a tokenizer. A row's figures are saved when it is finished, the same command continues after an
interruption, and several processes may work on different rows with one --work folder.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel.bench.timing import Job, Measurement
from worldmodel.cli.eval_world import policies_of
from worldmodel.common.files import atomic_path
from worldmodel.common.memory import keep_freed_memory
from worldmodel.common.run_info import code_version, machine
from worldmodel.data import Dataset
from worldmodel.dream.simulator import Simulator
from worldmodel.metrics import EvaluationSettings, evaluate
from worldmodel.prior import Sampling
from worldmodel.train.presets import DOOM_TAKE_COVER_DEMO, DOOM_TAKE_COVER_FLAT
from worldmodel.train.trainers import train_prior, train_tokenizer
from worldmodel.train.training_config import PriorTraining, TokenizerTraining, WorldConfig, stage_config
from worldmodel.world.world_model import WorldModel

BASE = replace(DOOM_TAKE_COVER_DEMO, prior=replace(DOOM_TAKE_COVER_DEMO.prior, order="columns", rare_weight=4.0))
WHOLE = replace(BASE, crop=None)


def with_prior(**changes: Any) -> WorldConfig:
    """The base row with changes to its prior."""
    return replace(BASE, prior=replace(BASE.prior, **changes))


ROWS: dict[str, WorldConfig] = {
    "columns": BASE,
    "raster": with_prior(order="raster"),
    "groups of 4": with_prior(order="groups", num_groups=4),
    "frame at once": with_prior(order="frame"),
    "frame at once, mixture of 8": with_prior(order="frame", mixture=8),
    "flat": replace(BASE, prior=DOOM_TAKE_COVER_FLAT.prior, train_prior=DOOM_TAKE_COVER_FLAT.train_prior),
    "columns, whole frame": WHOLE,
    "columns, no history noise": with_prior(history_noise=0.0),
    "columns, rare codes not weighted": with_prior(rare_weight=1.0),
    "frame at once, rare codes not weighted": with_prior(order="frame", rare_weight=1.0),
    "columns, rare pixels not weighted": replace(BASE, tokenizer=replace(BASE.tokenizer, rare_weight=1.0)),
}
METRICS = (
    "policy_order", "steps_survived", "hit_rate", "end_rate", "bright_share", "motion", "nats", "control_gap",
    "bright_recall", "end_precision", "end_calibration", "end_mean", "hit_precision", "hit_calibration", "hit_mean",
)  # fmt: skip


def train_row(name: str, config: WorldConfig, seed: int, args: argparse.Namespace) -> WorldModel:
    """Train the tokenizer (shared) and the prior of a row."""
    loops = {
        "train_tokenizer": replace(config.train_tokenizer, minutes=args.tokenizer_minutes, clock="processor"),
        "train_prior": replace(config.train_prior, minutes=args.prior_minutes, clock="processor", validations=1),
    }
    if args.steps:
        loops = {key: replace(loop, num_steps=args.steps) for key, loop in loops.items()}
    config = replace(config, seed=seed, **loops)
    frames = "whole" if config.tokenizer.encoded is None else "part"
    codes = args.work / f"tokenizer-{frames}-{config.tokenizer.rare_weight:g}-{seed}"
    train_tokenizer(args.data, codes, stage_config(config, TokenizerTraining), device="cpu")
    out = args.work / f"{slug(name)}-{seed}"
    return train_prior(codes, args.data, out, stage_config(config, PriorTraining), device="cpu")


def speed(world: WorldModel, rows: int, seconds: float = 4.0) -> float:
    """Whole steps per second of processor time, one thread."""
    simulator = Simulator(world, rows, sampling=Sampling(exact=False))
    simulator.reset()
    actions = torch.from_numpy(np.stack([world.spec.action_space.sample(np.random.default_rng(0))] * rows))
    simulator.step(actions)
    return rows * Measurement.of(Job(lambda: simulator.step(actions), seconds), time.process_time).rate


def evaluate_row(world: WorldModel, args: argparse.Namespace) -> dict[str, Any]:
    """A row's figures on the validation split: the test split must not choose anything."""
    settings = EvaluationSettings(
        split="validation", clips=args.clips, rows=args.rows, horizon=args.horizon, metrics=METRICS
    )
    with Dataset.open_cropped(args.data, world.spec.pixels) as data:
        result = evaluate(world, data, policies_of(data), settings)
    return {
        "parameters": sum(p.numel() for p in world.prior.parameters()),
        "codes": world.tokenizer.grid[0] * world.tokenizer.grid[1],
        "psnr": world.report["psnr"],
        "steps_per_second": {str(rows): round(speed(world, rows), 1) for rows in (1, 16, 64)},
        "notes": result["notes"],
        "sections": result["sections"],
    }


def main() -> None:
    """Train and evaluate row after row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/compare"))
    parser.add_argument("--out", type=Path, default=Path("results/compare-worlds.json"))
    parser.add_argument("--tokenizer-minutes", type=float, default=2.0)
    parser.add_argument("--prior-minutes", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=0, help="training steps in place of minutes, to rehearse")
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--horizon", type=int, default=80)
    parser.add_argument("--only", nargs="*", default=list(ROWS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    for name in args.only:
        for seed in args.seeds:
            done = args.work / f"{slug(name)}-{seed}.json"
            if done.exists():
                continue
            begin = time.perf_counter()
            print(f"{name}, seed {seed} ...", flush=True)
            row = {"name": name, "seed": seed, **evaluate_row(train_row(name, ROWS[name], seed, args), args)}
            with atomic_path(done) as temporary:
                temporary.write_text(json.dumps(row))
            print(f"  done in {time.perf_counter() - begin:.0f} s: {summary(row)}", flush=True)
            gather(args)


def slug(name: str) -> str:
    """A row's name as a file name."""
    return name.replace(",", "").replace(" ", "-")


def gather(args: argparse.Namespace) -> None:
    """Write all finished rows to one file."""
    order = list(ROWS)
    rows = [json.loads(path.read_text()) for path in args.work.glob("*.json")]
    rows.sort(key=lambda row: (order.index(row["name"]), row["seed"]))
    table = {
        "rows": rows,
        "tokenizer_minutes": args.tokenizer_minutes,
        "prior_minutes": args.prior_minutes,
        "machine": machine(),
        "code_version": code_version(),
    }
    with atomic_path(args.out) as temporary:
        temporary.write_text(json.dumps(table, indent=1) + "\n")


def figure(row: dict[str, Any], metric: str) -> list[dict[str, Any]]:
    """The figures of one metric of a row."""
    return next(section[metric]["values"] for section in row["sections"].values() if metric in section)


def summary(row: dict[str, Any]) -> str:
    """A row as a line of text."""
    kept, nats = (figure(row, name)[0]["value"]["mean"] for name in ("policy_order", "nats"))
    return f"orders kept {kept:.2f}, {nats:.3f} nats per code, {row['steps_per_second']} steps/s"


if __name__ == "__main__":
    main()
