"""Dreams of the evaluation's clips, made once for all metrics: with the recorded actions and with other ones.

Shapes: B clips, W frames of context, n frames ahead, A action size, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldmodel.common import spaces
from worldmodel.metrics.dream_rollouts import Dreams, dream_clips
from worldmodel.metrics.evaluation_run import EvaluationRun
from worldmodel.prior.code_clip import CodeClip


@dataclass(frozen=True)
class PairedDreams:
    """Dreams of the same clips with the same noise.

    Attributes:
        recorded: with the recorded actions.
        other: with the actions of another clip of the same policy.
    """

    recorded: Dreams
    other: Dreams


def paired_dreams(run: EvaluationRun) -> PairedDreams:
    """Each clip dreamed with its recorded actions and with those of another clip."""
    clips, window = run.clips, run.world.prior.window
    recorded, other = [], []
    for rows, clip in run.chunks("dreams"):
        twice = CodeClip(**{name: torch.cat([tensor, tensor]) for name, tensor in vars(clip).items()})
        future = torch.cat([clip.actions, clips.codes.actions[clips.other[rows]]])[:, window - 1 :]
        dreams = _dream(run, twice, future, _seeds(run, rows).repeat(2))
        half = len(clip.codes)
        recorded.append(dreams.select(slice(half)))
        other.append(dreams.select(slice(half, None)))
    return PairedDreams(Dreams.concatenate(recorded), Dreams.concatenate(other))


def random_dreams(run: EvaluationRun) -> Dreams:
    """Each clip dreamed with uniform random actions; the noise is that of `paired_dreams`."""
    future = random_actions(run.data.header.action_space, run.clips.codes.actions[:, run.world.prior.window - 1 :], run)
    return dreams_with_actions(run, future, "dreams with random actions")


def dreams_with_actions(run: EvaluationRun, actions: Tensor, stage: str) -> Dreams:
    """Dreams of the first clips with given actions, (b, n) or (b, n, A); the noise is that of `paired_dreams`."""
    dreams = []
    for rows, clip in run.chunks(stage):
        chosen = actions[rows]
        if not len(chosen):
            break
        few = CodeClip(**{name: tensor[: len(chosen)] for name, tensor in vars(clip).items()})
        dreams.append(_dream(run, few, chosen, _seeds(run, rows)[: len(chosen)]))
    return Dreams.concatenate(dreams)


def random_actions(space: spaces.Space, like: Tensor, run: EvaluationRun) -> Tensor:
    """Uniform actions of the shape, dtype and device of `like`, (B, n) or (B, n, A), by the run's seed."""
    rng = np.random.default_rng([run.settings.seed, 1])
    flat = np.stack([space.sample(rng) for _ in range(like.shape[0] * like.shape[1])])
    return torch.from_numpy(flat).reshape(like.shape).to(like)


def _dream(run: EvaluationRun, clip: CodeClip, actions: Tensor, seeds: Tensor) -> Dreams:
    return dream_clips(run.world, clip, actions, run.world.prior.window, seeds, run.settings.sampling)


def _seeds(run: EvaluationRun, rows: slice) -> Tensor:
    return run.settings.seed + torch.arange(rows.start, rows.stop)
