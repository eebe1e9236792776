"""The first frame of a clip has no action: in both priors a learned embedding takes its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from test_world_flat import make_prior as flat_prior
from test_world_prior import SPACES, make_clip
from test_world_prior import make_prior as factored_prior

from worldmodel.common import spaces


@pytest.mark.parametrize("space", SPACES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("make", [factored_prior, flat_prior], ids=["factored", "flat"])
def test_the_first_frame_is_conditioned_on_the_learned_no_action(make: Callable, space: spaces.Space) -> None:
    prior, clip = make(space), make_clip(space=space)
    before = prior.log_prob(clip)
    changed = replace(clip, actions=clip.actions.flip(0).contiguous())
    assert torch.equal(prior.log_prob(changed)[:, 0], before[:, 0]), "no action influences the first frame"
    assert not torch.allclose(prior.log_prob(changed)[:, 1], before[:, 1])
    with torch.no_grad():
        prior.action_encoder.no_action += 1.0
    assert (prior.log_prob(clip)[:, 0] != before[:, 0]).all(), "its condition is the learned embedding"
