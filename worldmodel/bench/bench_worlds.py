"""Worlds to measure: with a preset's sizes and random weights, or from a directory; and clips of random codes.

Shapes: B clips, T frames, S starts, h w code grid, A action size, V codes in the codebook.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from worldmodel.common import spaces
from worldmodel.common.errors import UserError, unknown_name
from worldmodel.common.pixels import PixelSpec
from worldmodel.prior.code_clip import CodeClip
from worldmodel.train.presets import PRESETS
from worldmodel.train.training_config import LoopConfig, WorldConfig
from worldmodel.world.starts import KIND_EPISODE, Starts
from worldmodel.world.world_model import WorldModel
from worldmodel.world.world_spec import WorldSpec

NUM_STARTS = 64
WEIGHT_STD = 0.05  # of the noise added to every weight of a random prior: many are 0 after initialization
NEVER = -200.0  # log-odds of a termination; its probability is 0 in float32, so that no dream is reset


@dataclass(frozen=True)
class BenchWorld:
    """A world and how its prior is trained.

    Attributes:
        source: the preset or the directory it is from.
        prior: its config's `label`: the order of a factored prior's groups, or "flat".
        world: the world, in evaluation mode.
        loop: batch size and clip length of its prior's training.
    """

    source: str
    prior: str
    world: WorldModel
    loop: LoopConfig


def bench_worlds(presets: Sequence[str], directory: Path | None, size: int) -> list[BenchWorld]:
    """The worlds that a benchmark measures.

    Args:
        presets: names; a preset makes a world for each of its prior's `benchmark_variants`.
        directory: a world directory, measured in place of the presets. It does not store batch size and clip length
            of its training, so the default batch size is used, and clips of the window and one frame more.
        size: H and W of a random world's frames, pixels.

    Raises:
        UserError: an unknown preset, no preset, or not a world directory.
    """
    if directory is not None:
        world = WorldModel.from_pretrained(directory)
        loop = LoopConfig(clip_length=world.prior.window + 1)
        return [BenchWorld(str(directory), world.prior.config.label, world, loop)]
    if not presets:
        raise UserError("bench: name at least one preset with --preset NAME, or a world with --world DIR.")
    worlds = []
    for name in presets:
        if name not in PRESETS:
            raise unknown_name("preset", name, PRESETS)
        config = PRESETS[name]
        for prior in config.prior.benchmark_variants():
            world = random_world(replace(config, prior=prior), (size, size))
            worlds.append(BenchWorld(name, prior.label, world, config.train_prior))
    return worlds


def random_world(config: WorldConfig, size: tuple[int, int]) -> WorldModel:
    """An untrained world with a config's sizes, and three actions and no terminal frame as in take-cover.

    Its rewards and codes are noise, its episodes never end, and its starts are random codes.

    Args:
        config: sizes; its crop is ignored.
        size: (H, W) of its frames, pixels.
    """
    torch.manual_seed(0)
    spec = WorldSpec("worldmodel/Bench-v0", PixelSpec(size), spaces.Discrete(3), end_has_frame=False)
    world = WorldModel(config.tokenizer, config.prior, spec)
    heads = world.prior.heads
    with torch.no_grad():
        for parameter in world.prior.parameters():
            parameter.add_(WEIGHT_STD * torch.randn_like(parameter))
        heads.end.weight.zero_()
        heads.end.bias.fill_(NEVER)
    clip = random_clip(world, NUM_STARTS, 1)
    context = world.prior.context(clip.codes, clip.frame_valid, clip.actions, clip.status[:, 0])
    world.starts = Starts(context, torch.full((NUM_STARTS,), KIND_EPISODE))
    return world.eval()


def random_actions(space: spaces.Space, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Uniform random actions of a shape (...): (...) of a Discrete space, else (..., A)."""
    rng = np.random.default_rng(seed)
    actions = [space.sample(rng) for _ in range(int(np.prod(shape)))]
    return torch.from_numpy(np.asarray(actions, space.dtype).reshape(*shape, *space.shape))


def random_clip(world: WorldModel, batch: int, length: int, all_frames: bool = True) -> CodeClip:
    """Clips of random codes, actions, rewards and status, without terminations.

    Args:
        world: with its numbers of codes and its action space.
        batch: B.
        length: T.
        all_frames: every frame has a weight of 1 in the loss; else the last one alone.
    """
    prior = world.prior
    generator = torch.Generator().manual_seed(0)
    steps = torch.zeros(batch, length - 1, dtype=torch.bool)
    weights = torch.ones(batch, length)
    weights[:, : 0 if all_frames else -1] = 0.0
    bins = max(1, prior.status_config.num_bins)
    return CodeClip(
        codes=torch.randint(prior.num_codes, (batch, length, *prior.grid), generator=generator),
        frame_valid=torch.ones_like(weights, dtype=torch.bool),
        actions=random_actions(prior.action_space, (batch, length - 1)),
        rewards=torch.rand(steps.shape, generator=generator),
        terminations=steps,
        truncations=steps,
        status=torch.randint(bins, (batch, length), generator=generator),
        weights=weights,
    )
