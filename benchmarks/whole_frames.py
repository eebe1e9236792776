"""Cost of a border: dreams of a world with whole frames, compared with the same world without its border.

    python benchmarks/whole_frames.py doom-take-cover-small whole-frames.json

The second world has the same codes and prior, and shows only the part of the frame that the tokenizer encodes. Rounds
of both alternate. A row is the median over rounds of the ratio whole / part, with the lowest and the highest round.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from worldmodel import WorldModel
from worldmodel.common.files import write_json_atomic
from worldmodel.common.run_info import machine
from worldmodel.dream import DreamVectorEnv

BATCHES, ROUNDS, SECONDS = (1, 16, 64), 5, 1.0


def without_border(world: WorldModel) -> WorldModel:
    """The same world, whose frames are the encoded part."""
    config, spec = world.tokenizer.config, world.spec
    assert config.encoded is not None, "this world encodes whole frames"
    spec = replace(spec, pixels=spec.pixels.cropped(config.encoded))
    part = WorldModel(replace(config, encoded=None), world.prior.config, spec)
    part.load_state_dict({k: v for k, v in world.state_dict().items() if not k.startswith("tokenizer.border.")})
    part.starts = world.starts
    return part.eval()


def steps_per_second(dreams: DreamVectorEnv, actions: np.ndarray) -> float:
    """Steps of all rows per second: actions (64, N)."""
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < SECONDS:
        dreams.step(actions[count % len(actions)])
        count += 1
    return dreams.num_envs * count / (time.perf_counter() - begin)


def compare(worlds: dict[str, WorldModel], backend: str, batch: int) -> dict[str, Any]:
    """One row."""
    envs = {name: DreamVectorEnv(batch, world=world, backend=backend) for name, world in worlds.items()}
    space = worlds["whole"].spec.action_space
    rng = np.random.default_rng(0)
    actions = np.asarray([[space.sample(rng) for _ in range(batch)] for _ in range(64)])
    rates: dict[str, list[float]] = {name: [] for name in worlds}
    for dreams in envs.values():
        dreams.reset(seed=0)
        dreams.step(actions[0])
    for _ in range(ROUNDS):
        for name, dreams in envs.items():
            rates[name].append(steps_per_second(dreams, actions))
    ratios = [whole / part for whole, part in zip(rates["whole"], rates["part"], strict=True)]
    speeds = {name: median(found) for name, found in rates.items()}
    ratio = {"ratio": median(ratios), "lowest": min(ratios), "highest": max(ratios)}
    return {"backend": backend, "batch": batch, **speeds, **ratio}


def main() -> None:
    """Parse, measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", help="a world that encodes a part of its frames")
    parser.add_argument("out", type=Path, help="NAME.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    load, world = os.getloadavg()[0], WorldModel.from_pretrained(arguments.world)
    worlds = {"part": without_border(world), "whole": world}
    rows = [compare(worlds, backend, batch) for backend in ("torch", "onnx") for batch in BATCHES]
    for row in rows:
        print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    facts = {"world": arguments.world, "rounds": ROUNDS, "seconds": SECONDS, "load_before": load, "machine": machine()}
    write_json_atomic(arguments.out, {"rows": rows, **facts})


if __name__ == "__main__":
    main()
