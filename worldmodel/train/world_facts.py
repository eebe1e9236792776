"""What a world keeps of its dataset: the environment, and moments to begin dreams from.

Shapes: n moments, W frames of memory, h w code grid.
"""

from __future__ import annotations

import numpy as np
import torch

from worldmodel.data import Dataset
from worldmodel.prior.context import Context
from worldmodel.train.code_cache import CodeCache
from worldmodel.world.starts import KIND_EPISODE, KIND_INSIDE, Starts
from worldmodel.world.world_model import WorldModel, WorldSpec


def describe(data: Dataset) -> WorldSpec:
    """What a world keeps of its dataset."""
    header = data.header
    last = data.frame_offsets + data.lengths
    ended = data.flat("terminations")[data.step_offsets + data.lengths - 1]
    pictures = data.flat("frame_valid")[last][ended]
    return WorldSpec(
        env=header.env,
        pixels=header.pixels,
        action_space=header.action_space,
        action_labels=header.action_labels,
        env_kwargs=header.env_kwargs,
        frame_skip=header.frame_skip,
        max_steps=header.max_steps,
        end_has_frame=bool(pictures.mean() > 0.5) if len(pictures) else True,
        dataset=data.fingerprint,
    )


def gather_starts(world: WorldModel, cache: CodeCache, at_least: int, seed: int) -> Starts:
    """Every true episode start of the training split, topped up with moments inside episodes."""
    data, prior = cache.data, world.prior
    window, bins = prior.window, prior.status_config.num_bins
    episodes = data.episodes_of("train")
    long = episodes[data.lengths[episodes] >= window]
    missing = max(0, at_least - len(episodes)) if len(long) else 0
    rng = np.random.default_rng(seed)
    inside = rng.choice(long, missing) if missing else np.empty(0, np.int64)
    moments = rng.integers(0, data.lengths[inside] - window + 1)  # first frame of a window before the end

    def states(numbers: np.ndarray, first: np.ndarray, length: int) -> Context:
        frames = (data.frame_offsets[numbers] + first)[:, None] + np.arange(length)  # (n, length)
        steps = (data.step_offsets[numbers] + first)[:, None] + np.arange(length - 1)
        status = cache.status[frames[:, -1]] if bins else np.zeros(len(numbers), np.int64)
        return prior.context(
            torch.from_numpy(cache.codes[frames].astype(np.int64)),
            torch.from_numpy(data.flat("frame_valid")[frames]),
            torch.from_numpy(data.flat("actions")[steps]),
            torch.from_numpy(status.astype(np.int64)),
        )

    parts = [states(episodes, np.zeros_like(episodes), 1)]
    if missing:
        parts.append(states(inside, moments, window))
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])}
    kinds = torch.tensor([KIND_EPISODE] * len(episodes) + [KIND_INSIDE] * missing)
    return Starts(Context(**joined), kinds)
