"""Clips made without a game: a coloured square that moves in the direction of its class and bounces off the border.

Shapes: N clips, L frames of a clip, S x S pixels. Frames are (..., S, S, 3) uint8.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldmodel.common import spaces
from worldmodel.common.pixels import PixelSpec
from worldmodel.data import Dataset, Episode, Header, PartWriter, PolicyRecord, seal

CLASS_NAMES = ("left", "right", "up", "down")
BACKGROUND = 30  # grey level
FOREGROUND_DISTANCE = 60  # a pixel belongs to the square if its levels differ from the background by more in all


def moving_square(index: int, label: int, size: int, num_frames: int) -> np.ndarray:
    """One clip, (L, S, S, 3) uint8.

    The square does not reach the border ahead of it in the first half of the clip. After that it may bounce.

    Args:
        index: seed of colour, start and sideways motion.
        label: index of `CLASS_NAMES`.
        size: S.
        num_frames: L.
    """
    rng = np.random.default_rng(index)
    side, speed = size // 5, max(1, size // 20)
    room = size - side
    start = rng.integers(0, room - speed * (num_frames // 2) + 1)  # distance from the border behind it
    ahead = _bounce(start + speed * np.arange(num_frames), room)
    if label % 2 == 0:  # left and up: towards smaller coordinates
        ahead = room - ahead
    sideways_speed = rng.integers(-(speed // 2), speed // 2 + 1)
    sideways = _bounce(rng.integers(0, room + 1) + sideways_speed * np.arange(num_frames), room)
    rows, columns = (sideways, ahead) if label < 2 else (ahead, sideways)
    colour = rng.integers(0, 256, 3)
    colour[rng.integers(3)] = 255  # never near the background
    frames = np.full((num_frames, size, size, 3), BACKGROUND, np.uint8)
    for frame, row, column in zip(frames, rows, columns, strict=True):
        frame[row : row + side, column : column + side] = colour
    return frames


def _bounce(positions: np.ndarray, room: int) -> np.ndarray:
    """Reflect positions at 0 and at `room`."""
    folded = positions % (2 * room)
    return np.minimum(folded, 2 * room - folded)


def motion_classes(clips: Tensor) -> Tensor:
    """The direction in which the square moves in the first half of each clip.

    Args:
        clips: (N, L, S, S, 3) uint8.

    Returns:
        (N,) int64, indices of `CLASS_NAMES`; -1 where a frame shows no square.
    """
    frames = clips[:, [0, clips.shape[1] // 2]].float()  # (N, 2, S, S, 3)
    is_square = (frames - BACKGROUND).abs().sum(-1) > FOREGROUND_DISTANCE  # (N, 2, S, S)
    count = is_square.sum((2, 3))
    axis = torch.arange(clips.shape[2], device=clips.device)
    row = (is_square.sum(3) * axis).sum(2) / count  # (N, 2)
    column = (is_square.sum(2) * axis).sum(2) / count
    down, right = (x[:, 1] - x[:, 0] for x in (row, column))  # (N,)
    direction = torch.stack([-right, right, -down, down], 1).argmax(1)
    return torch.where((count > 0).all(1), direction, -1)


def write_clips(path: Path, num_episodes: int, size: int, num_frames: int) -> Dataset:
    """Write a dataset of such clips, each an episode with its class as the label; every ten are split 8:1:1.

    Args:
        path: the file to make.
        num_episodes: number of clips.
        size: S.
        num_frames: L.
    """
    header = Header(
        env="benchmark/MovingSquares-v0",
        pixels=PixelSpec((size, size)),
        action_space=spaces.NoAction(),
        seed=0,
        num_episodes=num_episodes,
        policies=(PolicyRecord("none"),),
        class_names=CLASS_NAMES,
    )
    part_path, steps = path.with_suffix(".part"), num_frames - 1
    part_path.unlink(missing_ok=True)  # of a killed run
    with PartWriter(part_path, header) as part:
        for index in range(num_episodes):
            label = index // 10 % len(CLASS_NAMES)  # every split has all classes
            episode = Episode(
                frames=moving_square(index, label, size, num_frames),
                frame_valid=np.ones(num_frames, bool),
                actions=np.zeros((steps, 0), np.int64),
                rewards=np.zeros(steps, np.float32),
                terminations=np.zeros(steps, bool),
                truncations=np.arange(steps) == steps - 1,
                index=index,
                seed=index,
                policy="none",
                label=label,
            )
            part.append(episode)
    seal([part_path], path)
    return Dataset(path)
