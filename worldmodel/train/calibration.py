"""Ends are rare: after training, their predicted probability is fitted to steps that were not learned.

Shapes: B clips, L frames a clip, N steps.
"""

from __future__ import annotations

import numpy as np
import torch

from worldmodel.train.code_cache import CodeCache
from worldmodel.world.world_model import WorldModel

LENGTH = 12  # frames of a clip
CHUNK = 64  # clips at once
STEPS = 40_000  # at most so many


@torch.no_grad()
def calibrate_ends(world: WorldModel, cache: CodeCache) -> int:
    """Fit the ends' log-odds on the validation split; without one they stay as they are.

    Returns:
        N, the steps it was fitted to.
    """
    data, device = cache.data, world.device
    window = world.prior.window
    longest = min(LENGTH + window, world.prior.max_frames or LENGTH + window)
    places: dict[int, list[tuple[int, int, int]]] = {}  # length -> episode, start, steps that were seen already
    for number in data.episodes_of("validation"):
        frames = int(data.lengths[number]) + 1
        length = min(longest, frames)
        group, last = places.setdefault(length, []), frames - length  # the last legal start
        # clips overlap by a window, so that every step is seen with all the past that a dream would have
        starts = [*range(0, last, max(1, length - window)), last]
        group += [
            (int(number), start, before + length - 1 - start if start else 0)
            for before, start in zip([0, *starts], starts, strict=False)
        ]
        if sum(len(group) * (length - 1) for length, group in places.items()) >= STEPS:
            break
    logits, ended = [], []
    for length, group in places.items():
        for i in range(0, len(group), CHUNK):
            episodes, starts, seen = np.asarray(group[i : i + CHUNK]).T
            clip = cache.clip(episodes, starts, length).to(device)
            hazards = world.prior.predict_outcomes(clip).hazards  # (B, L-1)
            fresh = torch.arange(length - 1)[None] >= torch.from_numpy(seen)[:, None]
            counts = ~clip.truncations & fresh.to(device)
            logits.append(hazards[counts].double().logit(eps=1e-9))
            ended.append(clip.terminations[counts])
    if not logits:
        return 0
    world.prior.heads.calibrate(torch.cat(logits), torch.cat(ended))
    return len(torch.cat(ended))
