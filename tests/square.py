"""The square world: a tiny learnable world for tests, with its dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from worldmodel import spaces
from worldmodel.data import Dataset, Episode, Header, PartWriter, PolicyRecord, seal
from worldmodel.pixels import PixelSpec

SIZE, PLACES = 16, 4  # a square of 8 x 8 pixels at one of 2 x 2 places


def picture(place: int) -> np.ndarray:
    """Place 0..3 clockwise; (16, 16, 3) uint8."""
    frame = np.full((SIZE, SIZE, 3), 30, np.uint8)
    row, column = divmod(place, 2)
    frame[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = (220, 120, 40)
    return frame


def play(index: int, end_has_frame: bool = False) -> Episode:
    """Action 1 moves the square on, 0 keeps it. Reward 1 for reaching place 3; waiting there ends it."""
    rng = np.random.default_rng(index)
    place = int(rng.integers(3))
    frames, actions, rewards, valid, places = [picture(place)], [], [], [True], [place]
    terminations = []
    for _ in range(12):
        action = int(rng.random() < 0.6)
        ended = place == 3 and action == 0
        place = (place + action) % PLACES
        actions.append(action)
        rewards.append(float(place == 3 and action == 1))
        terminations.append(ended)
        frames.append(frames[-1] if ended and not end_has_frame else picture(place))
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


def record_square(path: Path, num_episodes: int = 100, end_has_frame: bool = False) -> Dataset:
    """Play episodes 0, 1, ... and seal them at `path`; split 8:1:1 in every ten."""
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
            part.append(play(index, end_has_frame))
    seal([part_path], path)
    return Dataset(path)
