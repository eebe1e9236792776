"""Whole steps/s of torch and of onnxruntime on the same worlds in interleaved rounds, and the cost of each module.

    OMP_NUM_THREADS=1 python benchmarks/onnx_stepping.py --work runs/onnx --out results/onnx-stepping.json

A whole step is termination, status, codes, reward and uint8 pixels of every row. Worlds have a preset's sizes and
random weights. Seconds are this process's own (`time.process_time`), so that other work on the machine is not counted.
Exports stay in --work and are used again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from worldmodel.bench.bench_worlds import random_actions, random_world
from worldmodel.bench.timing import Job, Measurement, median_rate, median_ratio, time_jobs
from worldmodel.common.files import atomic_path
from worldmodel.common.memory import keep_freed_memory
from worldmodel.common.run_info import code_version, machine
from worldmodel.dream import Simulator
from worldmodel.onnx import OnnxSimulator, OnnxWorld
from worldmodel.onnx.export import OWN, export_world, exported
from worldmodel.onnx.onnx_world import EXPORT
from worldmodel.train.presets import PRESETS
from worldmodel.world.world_model import WorldModel

WORLDS: dict[str, tuple[str, bool, dict[str, Any]]] = {  # preset, whether its frames are cropped, changes to its prior
    "demo, 32 codes": ("doom-take-cover-demo", True, {"order": "columns"}),
    "flat, 32 codes": ("doom-take-cover-flat", True, {}),
    "flat, 64 codes": ("doom-take-cover-flat", False, {}),
    "flat, 64 codes, keys shared": ("doom-take-cover-flat", False, {"num_kv_heads": 1}),
}


def load_or_export(name: str, work: Path) -> WorldModel:
    """A world directory with its export, made if it is not there."""
    preset, cropped, changes = WORLDS[name]
    folder = work / name.replace(", ", "-").replace(" ", "-")
    if not EXPORT.is_stored_at(folder / OWN):
        config = PRESETS[preset]
        config = replace(config, prior=replace(config.prior, **changes))
        world = random_world(config, (32, 64) if cropped else (64, 64))
        world.save_pretrained(folder)
        export_world(world, folder / OWN)
    return WorldModel.from_pretrained(folder)


def steppers(world: WorldModel, batch: int) -> dict[str, Callable[[], object]]:
    """The backends that step a batch of dreams, and the single modules of the export ("module NAME")."""
    export, actions = exported(world), random_actions(world.spec.action_space, (batch,))
    eager, onnx = Simulator(world, batch, backend="torch"), Simulator(world, batch, backend="onnx")
    without_torch = OnnxSimulator(OnnxWorld(export), batch)
    for dreams in (eager, onnx, without_torch):
        dreams.reset()
    functions: dict[str, Callable[[], object]] = {
        "torch": lambda: eager.step(actions),
        "onnx": lambda: onnx.step(actions),
        "onnx, no torch": lambda: without_torch.step(actions.numpy()),
    }
    for file in sorted(export.glob("*.onnx")):
        session = onnxruntime.InferenceSession(file, _session_options(), ["CPUExecutionProvider"])
        inputs = {node.name: _example(node, batch) for node in session.get_inputs()}
        functions[f"module {file.stem}"] = partial(session.run, None, inputs)
    return functions


def _session_options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return options


def _example(node: Any, rows: int) -> np.ndarray:
    shape = [size if isinstance(size, int) else rows for size in node.shape]
    if node.type == "tensor(float)":
        return np.random.default_rng(0).standard_normal(shape, np.float32)
    return np.zeros(shape, np.int64 if node.type == "tensor(int64)" else bool)


def measure(world: WorldModel, name: str, batch: int, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """The rows of one world and batch; modules are timed for a fifth of the seconds."""
    jobs = {
        backend: Job(run, seconds / (5 if backend.startswith("module") else 1))
        for backend, run in steppers(world, batch).items()
    }
    measured: dict[str, list[Measurement]] = time_jobs(jobs, rounds, clock=time.process_time)
    rows = []
    for backend, found in measured.items():
        row = {"world": name, "batch": batch, "backend": backend, "ms": 1e3 / median_rate(found)}
        if not backend.startswith("module"):
            row |= {"steps/s": batch * median_rate(found), "times torch": median_ratio(found, measured["torch"])}
        rows.append(row)
        print(" ".join(f"{key} {v:.3g}" if isinstance(v, float) else str(v) for key, v in row.items()), flush=True)
    return rows


def main() -> None:
    """Measure, print a line for each row, write JSON."""
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
        world = load_or_export(name, args.work)
        for batch in args.batches:
            rows += measure(world, name, batch, args.seconds, args.rounds)
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
