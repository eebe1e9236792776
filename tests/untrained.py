"""Untrained worlds with random weights, for any action space, made in an instant.

Every output depends on every input that it could depend on, which is enough for tests of everything but learning.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from worldmodel.common import spaces
from worldmodel.common.pixels import PixelSpec
from worldmodel.prior import FactoredConfig, FlatConfig, StatusConfig
from worldmodel.tokenizer import TokenizerConfig
from worldmodel.world.starts import KIND_EPISODE, KIND_INSIDE, Starts
from worldmodel.world.world_model import WorldModel
from worldmodel.world.world_spec import WorldSpec

SPACES: dict[str, spaces.Space] = {
    "Discrete": spaces.Discrete(3),
    "MultiDiscrete": spaces.MultiDiscrete((2, 3)),
    "MultiBinary": spaces.MultiBinary(3),
    "Box": spaces.Box((-1.0, 0.0), (1.0, 4.0)),
}
SIDE, CODES = 16, 8  # pixels of a side; codes of the codebook, on a grid of 2 x 2


def make_world(
    space: spaces.Space = SPACES["Discrete"],
    flat: bool = False,
    hazard: float = -3.0,
    max_steps: int | None = 20,
    causal: bool = False,
    **sizes: Any,
) -> WorldModel:
    """A world with 10 starts: 5 first frames of episodes and 5 time steps inside episodes.

    Args:
        space: its action space.
        flat: whether it has the flat prior.
        hazard: mean log-odds of termination.
        max_steps: steps after which the recorded environment truncated.
        causal: whether its tokenizer is causal; the prior's window is then 5 frames, what a decoded frame depends on.
        **sizes: fields of the prior's config.
    """
    torch.manual_seed(0)
    shared: dict[str, Any] = {
        "window": 5 if causal else 3, "width": 16, "num_heads": 2, "action_dim": 4,
        "status": StatusConfig("lives", (0.5, 1.5)),
    }  # fmt: skip
    if flat:
        prior: Any = FlatConfig(**{**shared, "num_layers": 1, **sizes})
    else:
        prior = FactoredConfig(**{**shared, "trunk_layers": 1, "decoder_layers": 1, "embed_dim": 8, **sizes})
    tokenizer = TokenizerConfig(space_stride=8, width=8, code_width=8, num_codes=CODES, code_dim=4)
    if causal:
        tokenizer = replace(tokenizer, time="causal", residual_width=8, num_layers=1, time_window=3)
    world = WorldModel(
        tokenizer, prior, WorldSpec("test/Untrained-v0", PixelSpec((SIDE, SIDE)), space, max_steps=max_steps)
    )
    with torch.no_grad():  # no zeros, so that every weight matters
        for parameter in (world if causal else world.prior).parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        world.prior.heads.end.bias.fill_(hazard)
        world.tokenizer.codebook.embeddings.copy_(20 * torch.randn_like(world.tokenizer.codebook.embeddings))
        world.tokenizer.codebook.initialised.fill_(True)
    rng = np.random.default_rng(0)
    count, length = 10, world.prior.window
    actions = np.stack([[space.sample(rng) for _ in range(length - 1)] for _ in range(count)])
    inside = torch.arange(count) >= 5
    context = world.prior.context(
        torch.from_numpy(rng.integers(0, CODES, (count, length, *world.tokenizer.grid))),
        torch.ones(count, length, dtype=torch.bool),
        torch.from_numpy(actions),
        torch.from_numpy(rng.integers(0, 3, count)),
    )
    has_frame = inside[:, None] | (torch.arange(length) == length - 1)  # nothing before the start of an episode
    context = type(context)(
        codes=torch.where(has_frame[:, :, None, None], context.codes, CODES),
        actions=context.actions,
        has_action=context.has_action & inside[:, None],
        status=context.status,
    )
    world.starts = Starts(context, torch.where(inside, KIND_INSIDE, KIND_EPISODE))
    return world.eval()


def some_actions(space: spaces.Space, count: int, seed: int = 0) -> torch.Tensor:
    """Uniform actions: (count,) or (count, A)."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([space.sample(rng) for _ in range(count)]))
