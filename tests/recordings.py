"""Helpers that make small headers, episodes and files for tests of the data package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.common import spaces
from worldmodel.common.pixels import PixelSpec
from worldmodel.data import Episode, Header, PartWriter, PolicyRecord, seal

SPACES = [
    spaces.Discrete(3),
    spaces.MultiDiscrete((3, 2, 5)),
    spaces.MultiBinary(4),
    spaces.Box((-1.0, None), (1.0, None)),
]


def make_header(**changes: Any) -> Header:
    fields: dict[str, Any] = {
        "env": "Test-v0",
        "pixels": PixelSpec((4, 6)),
        "action_space": spaces.Discrete(3),
        "seed": 7,
        "num_episodes": 12,
        "policies": (PolicyRecord("random"), PolicyRecord("ppo", "abc123", {"lr": 0.1}, 0.5)),
        "variables": ("health", "ammo"),
        "max_steps": 50,
    }
    return Header(**(fields | changes))


def make_episode(header: Header, index: int, length: int = 3, **changes: Any) -> Episode:
    rng = np.random.default_rng([index, length])
    actions = np.stack([header.action_space.sample(rng) for _ in range(length)])
    frames = rng.integers(0, 256, (length + 1, *header.pixels.frame_shape), np.uint8)
    variables = {name: rng.random(length + 1, np.float32) for name in header.variables}
    valid = np.ones(length + 1, bool)
    if index % 3 == 0:  # an end without a picture
        valid[-1] = False
        frames[-1] = frames[-2]
        for values in variables.values():
            values[-1] = values[-2]
    last = np.arange(length) == length - 1
    fields: dict[str, Any] = {
        "frames": frames,
        "frame_valid": valid,
        "actions": actions,
        "rewards": rng.standard_normal(length).astype(np.float32),
        "terminations": last & (index % 2 == 0),
        "truncations": last & (index % 2 == 1),
        "variables": variables,
        "index": index,
        "seed": 1000 + index,
        "policy": header.policy_names[index % len(header.policies)],
    }
    return Episode(**(fields | changes))


def write_part(path: Path, header: Header, episodes: list[Episode]) -> Path:
    with PartWriter(path, header) as writer:
        for episode in episodes:
            writer.append(episode)
    return path


def make_file(folder: Path, num: int = 12, name: str = "a.h5", **changes: Any) -> tuple[Path, list[Episode]]:
    header = make_header(**({"num_episodes": num} | changes))
    episodes = [make_episode(header, i, 1 + i % 5) for i in range(num)]
    part = write_part(folder / f"{name}.part", header, episodes)
    return seal([part], folder / name, remove_parts=True), episodes


def names_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())
