"""Clip priors with random weights, and random conditions for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from worldmodel.common import spaces
from worldmodel.prior.clip.clip_conditioning import Conditioning
from worldmodel.prior.clip.clip_config import ClipConfig
from worldmodel.prior.clip.clip_prior import ClipPrior

SIZE = 16  # pixels of a frame's side
THREE_ACTIONS = spaces.Discrete(3)


def random_prior(space: spaces.Space = THREE_ACTIONS, time_stride: int = 1, **changes: Any) -> ClipPrior:
    """A prior of 3 x 2 codes a time step with random weights: every output depends on all that it may depend on."""
    torch.manual_seed(0)
    config = ClipConfig(**{"num_frames": 4, "width": 32, "num_heads": 4, "num_layers": 2, "action_dim": 4, **changes})
    prior = ClipPrior(config, (3, 2), 8, time_stride, space, 3, (SIZE, SIZE, 3))
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return prior.eval()


def random_frames(num: int, length: int) -> torch.Tensor:
    shape = (num, length, SIZE, SIZE, 3)
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def random_conditioning(prior: ClipPrior, num: int) -> Conditioning:
    rng, config, space = np.random.default_rng(0), prior.config, prior.condition_encoder.action_space
    actions = np.stack([[space.sample(rng) for _ in range(config.num_frames - 1)] for _ in range(num)])
    return Conditioning(
        actions=None if config.actions == "none" else torch.from_numpy(actions),
        class_index=torch.arange(num) % 4 - 1 if config.class_label else None,
        frames=random_frames(num, config.num_given_frames) if config.num_given_frames else None,
    )
