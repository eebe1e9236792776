"""Two quick figures of a world just trained: how well frames survive, and how much actions matter.

Shapes: B clips, L frames a clip, h w code grid.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from worldmodel.data import Dataset
from worldmodel.train.code_cache import CodeCache
from worldmodel.world.world_model import WorldModel

CLIPS = 192
LENGTH = 12  # frames of a clip, fewer where no episode is so long
CHUNK = 16


@torch.no_grad()
def evaluate_world(world: WorldModel, data: Dataset, cache: CodeCache, seed: int) -> dict[str, Any]:
    """Figures on the validation split (the training split where that is empty, and the report says so).

    Returns:
        `split`; `psnr` of reconstructions in dB, mean over frames; `nats_per_code` with the true actions
        and `nats_per_code_shuffled` with another clip's, over frames >= 1 of the clips.
    """
    split = "validation" if len(data.episodes_of("validation")) else "train"
    length = min(LENGTH, int(data.lengths[data.episodes_of(split)].max()) + 1, world.prior.max_frames or LENGTH)
    episodes, starts = _places(data, split, length, seed)
    device, (h, w) = world.device, world.tokenizer.grid
    psnrs: list[float] = []
    true, shuffled, codes = 0.0, 0.0, 0
    for i in range(0, len(episodes), CHUNK):
        rows = slice(i, i + CHUNK)
        clip = cache.clip(episodes[rows], starts[rows], length).to(device)
        other = np.roll(np.arange(len(episodes)), 1)[rows]
        actions = cache.clip(episodes[other], starts[other], length).actions.to(device)
        shown = clip.frame_valid[:, 1:]
        codes += int(shown.sum()) * h * w
        true -= float(world.prior.log_prob(clip)[:, 1:].sum())
        shuffled -= float(world.prior.log_prob(replace(clip, actions=actions))[:, 1:].sum())
        if len(psnrs) < 2:
            parts = zip(episodes[rows], starts[rows], strict=True)
            real = torch.from_numpy(np.stack([data.frames(int(e), int(s), int(s) + length) for e, s in parts]))
            made = world.tokenizer.decode(clip.codes).cpu()
            mse = ((real.float() - made.float()) / 255).square().mean((2, 3, 4))[clip.frame_valid.cpu()]
            psnrs.append(float((-10 * mse.clamp_min(1e-10).log10()).mean()))
    return {
        "split": split,
        "clips": len(episodes),
        "psnr": round(float(np.mean(psnrs)), 2),
        "nats_per_code": round(true / codes, 4),
        "nats_per_code_shuffled": round(shuffled / codes, 4),
    }


def _places(data: Dataset, split: str, length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Up to `CLIPS` clips that do not overlap, in an order drawn from the seed."""
    places = [
        (number, start)
        for number in data.episodes_of(split)
        for start in range(0, int(data.lengths[number]) + 2 - length, length)
    ]
    order = np.random.default_rng(seed).permutation(len(places))[:CLIPS]
    chosen = np.asarray([places[i] for i in order], np.int64).reshape(-1, 2)
    return chosen[:, 0], chosen[:, 1]
