"""What a world stores of its dataset: the spec of the environment, and contexts to begin dreams from.

Shapes: n contexts, W frames of context, h w code grid.
"""

from __future__ import annotations

import numpy as np
import torch

from worldmodel.data import Dataset
from worldmodel.prior.context import Context
from worldmodel.train.code_cache import CodeCache
from worldmodel.world.starts import KIND_EPISODE, KIND_INSIDE, Starts
from worldmodel.world.world_model import WorldModel
from worldmodel.world.world_spec import WorldSpec


def make_world_spec(data: Dataset) -> WorldSpec:
    """The spec of a dataset's environment."""
    header = data.header
    last = data.frame_offsets + data.lengths
    terminated = data.flat("terminations")[data.step_offsets + data.lengths - 1]
    end_frames = data.flat("frame_valid")[last][terminated]
    return WorldSpec(
        env=header.env,
        pixels=header.pixels,
        action_space=header.action_space,
        action_labels=header.action_labels,
        action_keys=header.action_keys,
        env_kwargs=header.env_kwargs,
        frame_skip=header.frame_skip,
        max_steps=header.max_steps,
        end_has_frame=bool(end_frames.mean() > 0.5) if len(end_frames) else True,
        dataset=data.fingerprint,
    )


def gather_starts(world: WorldModel, cache: CodeCache, min_starts: int, seed: int) -> Starts:
    """Starts of all episodes of the training split; where they are too few, also time steps inside episodes."""
    data, prior = cache.data, world.prior
    window = prior.window
    episodes = data.episodes_of("train")
    long = episodes[data.lengths[episodes] >= window]
    missing = max(0, min_starts - len(episodes)) if len(long) else 0
    rng = np.random.default_rng(seed)
    inside = rng.choice(long, missing) if missing else np.empty(0, np.int64)
    first_frames = rng.integers(0, data.lengths[inside] - window + 1)  # of a window before the end

    def contexts(numbers: np.ndarray, first: np.ndarray, length: int) -> Context:
        frames = (data.frame_offsets[numbers] + first)[:, None] + np.arange(length)  # (n, length)
        steps = (data.step_offsets[numbers] + first)[:, None] + np.arange(length - 1)
        status = cache.status(frames[:, -1])
        return prior.context(
            torch.from_numpy(cache.codes[frames].astype(np.int64)),
            torch.from_numpy(data.flat("frame_valid")[frames]),
            torch.from_numpy(data.flat("actions")[steps]),
            torch.from_numpy(status),
        )

    groups = [contexts(episodes, np.zeros_like(episodes), 1)]
    if missing:
        groups.append(contexts(inside, first_frames, window))
    joined = {name: torch.cat([getattr(group, name) for group in groups]) for name in vars(groups[0])}
    kinds = torch.tensor([KIND_EPISODE] * len(episodes) + [KIND_INSIDE] * missing)
    return Starts(Context(**joined), kinds)
