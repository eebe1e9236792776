"""Mirror augmentation: each clip of a training step is mirrored with probability one half.

Shapes: B clips.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from worldmodel.common.mirroring import ActionMirror, action_mirror
from worldmodel.common.pixels import Crop
from worldmodel.common.random import STREAM_MIRROR, uniforms
from worldmodel.data import Dataset

MirroredClips = Callable[[int], np.ndarray]  # step -> which clips are mirrored, (B,) bool


def dataset_mirror(data: Dataset, encoded: Crop | None) -> ActionMirror:
    """How the actions of a dataset change in a mirror.

    Args:
        data: the dataset.
        encoded: the part of the frames that the tokenizer encodes; None for whole frames.

    Raises:
        UserError: its environment declares no mirror, or a part of the frames that is not symmetric.
    """
    header = data.header
    return action_mirror(header.env, header.action_space, header.action_labels, header.pixels, encoded)


def mirrored_clips(seed: int, batch_size: int, overfit_one_batch: bool) -> MirroredClips:
    """Which clips are mirrored at each step, a function of (seed, step).

    Args:
        seed: seed of the training.
        batch_size: B, clips of all processes together.
        overfit_one_batch: every step has the clips of step 0.
    """
    seeds, rows = np.full(batch_size, seed, np.int64), np.arange(batch_size)

    def mirrored(step: int) -> np.ndarray:
        steps = np.full(batch_size, 0 if overfit_one_batch else step, np.int64)
        return uniforms(seeds, steps, rows, 1, STREAM_MIRROR)[:, 0] < 0.5

    return mirrored
