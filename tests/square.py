"""The square environment: tiny and easy to learn, with its dataset, for tests."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from worldmodel.common import spaces
from worldmodel.common.pixels import PixelSpec
from worldmodel.common.runtime import Runtime
from worldmodel.data import Dataset, Episode, Header, PartWriter, PolicyRecord, seal
from worldmodel.train.presets import PRESETS
from worldmodel.train.training_config import WorldConfig

SIZE, PLACES = 16, 4  # a square of 8 x 8 pixels at one of 2 x 2 places


def picture(place: int) -> np.ndarray:
    """The frame with the square at place 0..3, row by row; (16, 16, 3) uint8."""
    frame = np.full((SIZE, SIZE, 3), 30, np.uint8)
    row, column = divmod(place, 2)
    frame[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = (220, 120, 40)
    return frame


def play(index: int, end_has_frame: bool = False, noise: int = 0) -> Episode:
    """One episode. Action 1 moves the square, 0 does not. Reward 1 for reaching place 3; waiting there terminates."""
    rng, grain = np.random.default_rng(index), np.random.default_rng([index, 1])

    def shown(place: int) -> np.ndarray:
        grains = grain.integers(-noise, noise + 1, (SIZE, SIZE, 3))
        return (picture(place) + grains).clip(0, 255).astype(np.uint8)

    place = int(rng.integers(3))
    frames, actions, rewards, valid, places = [shown(place)], [], [], [True], [place]
    terminations = []
    for _ in range(12):
        action = int(rng.random() < 0.6)
        ended = place == 3 and action == 0
        place = (place + action) % PLACES
        actions.append(action)
        rewards.append(float(place == 3 and action == 1))
        terminations.append(ended)
        frames.append(frames[-1] if ended and not end_has_frame else shown(place))
        valid.append(not ended or end_has_frame)
        places.append(place)
        if ended:
            break
    truncations = np.zeros(len(actions), bool)
    truncations[-1] = not terminations[-1]
    return Episode(
        frames=np.stack(frames),
        frame_valid=np.array(valid),
        actions=np.array(actions, np.int64),
        rewards=np.array(rewards, np.float32),
        terminations=np.array(terminations),
        truncations=truncations,
        variables={"place": np.array(places, np.float32)},
        index=index,
        seed=index,
        policy="random",
    )


def record_square(path: Path, num_episodes: int = 100, end_has_frame: bool = False, noise: int = 0) -> Dataset:
    """Record episodes 0, 1, ... at `path`; every ten are split 8:1:1.

    Args:
        path: the file.
        num_episodes: how many.
        end_has_frame: whether there is a frame of the terminal step.
        noise: levels by which a pixel may differ; with 0 most patches of all frames are equal.
    """
    header = Header(
        env="test/Square-v0",
        pixels=PixelSpec((SIZE, SIZE)),
        action_space=spaces.Discrete(2),
        seed=0,
        num_episodes=num_episodes,
        policies=(PolicyRecord("random"),),
        max_steps=12,
        variables=("place",),
        action_labels=("stay", "move"),
    )
    part_path = path.with_suffix(".part")
    with PartWriter(part_path, header) as part:
        for index in range(num_episodes):
            part.append(play(index, end_has_frame, noise))
    seal([part_path], path)
    return Dataset(path)


def short(num_steps: int = 12, **loop: Any) -> WorldConfig:
    """A training of a second: codes restart at nearly every step, weights are averaged, every step has a checkpoint."""
    tiny = PRESETS["tiny"]
    changes = {"num_steps": num_steps, "checkpoint_seconds": 0.0, "log_every": 3, "ema_decay": 0.8, "validations": 1}
    return replace(
        tiny,
        tokenizer=replace(tiny.tokenizer, restart_below=0.99),
        train_tokenizer=replace(tiny.train_tokenizer, **{**changes, **loop}),
        train_prior=replace(tiny.train_prior, **{**changes, **loop}),
    )


def train_and_keep(
    data: Path, out: Path, kept: Path, config: WorldConfig, pause: float = 0.0, progress: Any = None
) -> None:
    """Train a world and copy its last checkpoints; run in a process that may be killed.

    Args:
        data: the dataset.
        out: the world.
        kept: where the checkpoints are copied to.
        config: config of the training.
        pause: seconds after each logged step, to leave time for a kill.
        progress: called at each logged step in place of the pause.
    """
    from worldmodel.train import train_world
    from worldmodel.train.workspace import Workspace

    finish = Workspace.finish

    def copy_and_finish(self: Workspace, save: Any, runtime: Runtime) -> None:
        if runtime.is_main:
            shutil.copytree(self.folder, kept)
        finish(self, save, runtime)

    Workspace.finish = copy_and_finish  # type: ignore[method-assign]
    try:
        train_world(data, out, config, device="cpu", progress=progress or (lambda *_: time.sleep(pause)))
    finally:
        Workspace.finish = finish  # type: ignore[method-assign]


def train_as_rank(
    rank: int, num_processes: int, port: int, data: Path, out: Path, kept: Path, config: Any, pause: float = 0.0
) -> None:
    """`train_and_keep` as one of several processes, as torchrun would start it."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    values = (rank, rank, num_processes, "127.0.0.1", port)
    os.environ.update(dict(zip(names, map(str, values), strict=True)))
    train_and_keep(data, out, kept, config, pause)


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every tensor in a folder's files of weights: of models, averages and optimisers."""
    found = {}
    for path in sorted(folder.glob("[!.]*.safetensors")):  # without temporary files
        for name, tensor in load_file(path).items():
            found[f"{path.name} {name}"] = hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
    return found
