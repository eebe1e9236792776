"""Whole steps/s of torch and of onnxruntime on the same worlds, the ways in turn, and what each part of a step costs.

    OMP_NUM_THREADS=1 python benchmarks/onnx_stepping.py --work runs/onnx --out results/onnx-stepping.json

A whole step is end, status, codes, reward and uint8 pixels of every row. Worlds have a preset's sizes and random
weights. Seconds are this process's own (`time.process_time`), so that other work on the machine is not counted. Exports
stay in --work and are used again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
import torch

from worldmodel.bench.bench_worlds import random_actions, random_world
from worldmodel.common.files import atomic_path
from worldmodel.common.memory import keep_freed_memory
from worldmodel.common.run_info import code_version, machine
from worldmodel.dream import Simulator
from worldmodel.onnx import OnnxSimulator, OnnxWorld
from worldmodel.onnx.export import EXPORT_FOLDER, export_world, find_or_make_export
from worldmodel.onnx.onnx_world import EXPORT
from worldmodel.train.presets import PRESETS
from worldmodel.world.world_model import WorldModel

WORLDS: dict[str, tuple[str, bool, dict[str, Any]]] = {  # preset, whether its frames are its crop, its prior's changes
    "demo, 32 codes": ("doom-take-cover-demo", True, {"order": "columns"}),  # in turns, as a cache wants
    "flat, 32 codes": ("doom-take-cover-flat", True, {}),
    "flat, 64 codes": ("doom-take-cover-flat", False, {}),
    "flat, 64 codes, keys shared": ("doom-take-cover-flat", False, {"num_kv_heads": 1}),
}


def seconds_of(run: Callable[[], object], seconds: float) -> float:
    """Processor seconds of one run, repeated for a while; twice at least."""
    begun, count = time.process_time(), 0
    while count < 2 or time.process_time() - begun < seconds:
        run()
        count += 1
    return (time.process_time() - begun) / count


def world_of(name: str, work: Path) -> WorldModel:
    """A world that carries its export, made unless it is there."""
    preset, cropped, changes = WORLDS[name]
    folder = work / name.replace(", ", "-").replace(" ", "-")
    if not EXPORT.is_stored_at(folder / EXPORT_FOLDER):
        config = PRESETS[preset]
        config = replace(config, prior=replace(config.prior, **changes))
        world = random_world(config, (32, 64) if cropped else (64, 64))
        world.save_pretrained(folder)
        export_world(world, folder / EXPORT_FOLDER)
    return WorldModel.from_pretrained(folder)


def ways(world: WorldModel, batch: int) -> dict[str, Callable[[], object]]:
    """The ways to step a batch of dreams, and the parts of one of them."""
    export, actions = find_or_make_export(world), random_actions(world.spec.action_space, (batch,))
    eager, onnx = Simulator(world, batch, backend="torch"), Simulator(world, batch, backend="onnx")
    plain = OnnxSimulator(OnnxWorld(export), batch)
    for dreams in (eager, onnx, plain):
        dreams.reset()
    found: dict[str, Callable[[], object]] = {
        "torch": lambda: eager.step(actions),
        "onnx": lambda: onnx.step(actions),
        "onnx, no torch": lambda: plain.step(actions.numpy()),
    }
    for part in sorted(export.glob("*.onnx")):
        session = onnxruntime.InferenceSession(part, _one_thread(), ["CPUExecutionProvider"])
        given = {node.name: _example(node, batch) for node in session.get_inputs()}
        found[f"part {part.stem}"] = partial(session.run, None, given)
    return found


def _one_thread() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return options


def _example(node: Any, rows: int) -> np.ndarray:
    shape = [size if isinstance(size, int) else rows for size in node.shape]
    if node.type == "tensor(float)":
        return np.random.default_rng(0).standard_normal(shape, np.float32)
    return np.zeros(shape, np.int64 if node.type == "tensor(int64)" else bool)


def main() -> None:
    """Measure, print a line a way, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3)
    args = parser.parse_args()
    keep_freed_memory()
    rows: list[dict[str, Any]] = []
    for name in args.only:
        world = world_of(name, args.work)
        for batch in args.batches:
            jobs = ways(world, batch)
            found: dict[str, list[float]] = {way: [] for way in jobs}
            for run in jobs.values():
                run()
            for _ in range(args.rounds):
                for way, run in jobs.items():
                    found[way].append(seconds_of(run, args.seconds / (5 if way.startswith("part") else 1)))
            for way, seconds in found.items():
                times = median(a / b for a, b in zip(found["torch"], seconds, strict=True))
                row = {"world": name, "batch": batch, "way": way, "ms": 1e3 * median(seconds)}
                if not way.startswith("part"):
                    row |= {"steps/s": batch / median(seconds), "times torch": times}
                rows.append(row)
                print(
                    " ".join(f"{key} {v:.3g}" if isinstance(v, float) else str(v) for key, v in row.items()), flush=True
                )
    report = {
        "threads": torch.get_num_threads(),
        "rounds": args.rounds,
        "machine": machine(),
        "code_version": code_version(),
        "rows": rows,
    }
    with atomic_path(args.out) as path:
        path.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
