"""Worlds to be measured: of a preset's sizes with random weights, or from a directory; and clips of random codes.

Shapes: B clips, T frames, S starts, h w code grid, A action size, V codes in the book.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import torch

from worldmodel.common import spaces
from worldmodel.common.errors import UserError, unknown_name
from worldmodel.common.pixels import PixelSpec
from worldmodel.prior import CodeClip, FactoredConfig
from worldmodel.train.presets import PRESETS
from worldmodel.train.training_config import LoopConfig, WorldConfig
from worldmodel.world.starts import KIND_EPISODE, Starts
from worldmodel.world.world_model import WorldModel
from worldmodel.world.world_spec import WorldSpec

NUM_STARTS = 64
SPREAD = 0.05  # standard deviation added to every weight of a random prior: at their beginning many are 0
NEVER = -200.0  # log-odds of an end that float32 rounds to none: a dream of random weights is never reset


@dataclass(frozen=True)
class BenchWorld:
    """A world and how its prior is trained.

    Attributes:
        source: the preset or the directory it is from.
        prior: how its prior writes a frame: "columns", "raster", "frame", "groups", or "flat".
        world: the world, in evaluation mode.
        loop: batch size and clip length of its prior's training.
    """

    source: str
    prior: str
    world: WorldModel
    loop: LoopConfig


def bench_worlds(presets: Sequence[str], directory: Path | None, size: int) -> list[BenchWorld]:
    """The worlds that a benchmark is about.

    Args:
        presets: names; a factored preset makes a world for each order of writing, its own first.
        directory: a world's, which is then the only one. A world does not keep its training's sizes: its
            batch is the loop's usual one, its clips a window and the frame that follows.
        size: H and W of a random world's frames, pixels.

    Raises:
        UserError: an unknown preset, none at all, or not a world directory.
    """
    if directory is not None:
        world = WorldModel.from_pretrained(directory)
        loop = LoopConfig(clip_length=world.prior.window + 1)
        return [BenchWorld(str(directory), getattr(world.prior.config, "order", "flat"), world, loop)]
    if not presets:
        raise UserError("bench: name at least one preset with --preset NAME, or a world with --world DIR.")
    found = []
    for name in presets:
        if name not in PRESETS:
            raise unknown_name("preset", name, PRESETS)
        config = PRESETS[name]
        own = config.prior
        if not isinstance(own, FactoredConfig):
            found.append(BenchWorld(name, "flat", random_world(config, (size, size)), config.train_prior))
            continue
        orders = get_args(get_type_hints(FactoredConfig)["order"])
        for order in sorted(orders, key=lambda order: order != own.order):
            world = random_world(replace(config, prior=replace(own, order=order)), (size, size))
            found.append(BenchWorld(name, order, world, config.train_prior))
    return found


def random_world(config: WorldConfig, size: tuple[int, int]) -> WorldModel:
    """A world of a config's sizes that learned nothing, like take-cover's: three actions, no picture of an end.

    Its rewards and codes are noise, its episodes never end, and it begins from random codes.

    Args:
        config: sizes; its crop is not looked at.
        size: (H, W) of its frames, pixels.
    """
    torch.manual_seed(0)
    spec = WorldSpec("worldmodel/Bench-v0", PixelSpec(size), spaces.Discrete(3), end_has_frame=False)
    world = WorldModel(config.tokenizer, config.prior, spec)
    heads = world.prior.heads
    with torch.no_grad():
        for parameter in world.prior.parameters():
            parameter.add_(SPREAD * torch.randn_like(parameter))
        heads.end.weight.zero_()
        heads.end.bias.fill_(NEVER)
    clip = random_clip(world, NUM_STARTS, 1)
    context = world.prior.context(clip.codes, clip.frame_valid, clip.actions, clip.status[:, 0])
    world.starts = Starts(context, torch.full((NUM_STARTS,), KIND_EPISODE))
    return world.eval()


def random_actions(space: spaces.Space, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Uniform actions: a shape -> the shape, and A behind it where an action has parts."""
    rng = np.random.default_rng(seed)
    drawn = [space.sample(rng) for _ in range(int(np.prod(shape)))]
    return torch.from_numpy(np.asarray(drawn, space.dtype).reshape(*shape, *space.shape))


def random_clip(world: WorldModel, batch: int, length: int, all_learned: bool = True) -> CodeClip:
    """Clips of random codes, actions, rewards and status, without ends.

    Args:
        world: whose codes and actions.
        batch: B.
        length: T.
        all_learned: every frame is learned; else the last alone.
    """
    prior = world.prior
    generator = torch.Generator().manual_seed(0)
    steps = torch.zeros(batch, length - 1, dtype=torch.bool)
    weights = torch.ones(batch, length)
    weights[:, : 0 if all_learned else -1] = 0.0
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
