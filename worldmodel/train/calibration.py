"""Calibration of hazards after training, on steps that were not learned: terminations are rare.

Shapes: B clips, L frames a clip, N steps.
"""

from __future__ import annotations

import numpy as np
import torch

from worldmodel.train.code_cache import CodeCache
from worldmodel.world.world_model import WorldModel

CLIP_LENGTH = 12  # frames of a clip, without its context
BATCH_SIZE = 64  # clips
MAX_STEPS = 40_000


@torch.no_grad()
def calibrate_hazards(world: WorldModel, cache: CodeCache) -> int:
    """Fit the log-odds of termination on the validation split; they stay unchanged where it is empty.

    Returns:
        N, the number of steps that were used.
    """
    window, device = world.prior.window, world.device
    longest = min(CLIP_LENGTH + window, world.prior.max_frames or CLIP_LENGTH + window)
    logits, terminated = [], []
    for length, clips in _overlapping_clips(cache, longest, window).items():
        for i in range(0, len(clips), BATCH_SIZE):
            episodes, starts, counted = np.asarray(clips[i : i + BATCH_SIZE]).T
            clip = cache.clip(episodes, starts, length).to(device)
            hazards = world.prior.predict_outcomes(clip).hazards  # (B, L-1)
            uncounted = torch.arange(length - 1)[None] >= torch.from_numpy(counted)[:, None]
            selected = ~clip.truncations & uncounted.to(device)
            logits.append(hazards[selected].double().logit(eps=1e-9))
            terminated.append(clip.terminations[selected])
    if not logits:
        return 0
    world.prior.heads.calibrate(torch.cat(logits), torch.cat(terminated))
    return len(torch.cat(terminated))


def _overlapping_clips(cache: CodeCache, longest: int, window: int) -> dict[int, list[tuple[int, int, int]]]:
    """Clips that cover validation episodes, each step once with all the history that a dream would have.

    Args:
        cache: the dataset as codes.
        longest: frames of a clip; shorter episodes are one clip.
        window: frames by which consecutive clips of an episode overlap.

    Returns:
        Clip length -> (episode, start, number of first steps that an earlier clip has covered).
    """
    data = cache.data
    clips: dict[int, list[tuple[int, int, int]]] = {}
    for number in data.episodes_of("validation"):
        frames = int(data.lengths[number]) + 1
        length = min(longest, frames)
        group, last = clips.setdefault(length, []), frames - length  # the last legal start
        starts = [*range(0, last, max(1, length - window)), last]
        group += [
            (int(number), start, before + length - 1 - start if start else 0)
            for before, start in zip([0, *starts], starts, strict=False)
        ]
        if sum(len(group) * (length - 1) for length, group in clips.items()) >= MAX_STEPS:
            break
    return clips
