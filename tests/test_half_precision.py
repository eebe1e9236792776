"""How far a dream in bfloat16 is from float32: the tolerance that docs/worlds.md states, in worlds that learned.

Shapes: B rows, T frames.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from untrained import some_actions

from worldmodel.bench.bench_worlds import random_world
from worldmodel.dream import Simulator
from worldmodel.prior.interface import CodeClip
from worldmodel.train.presets import PRESETS
from worldmodel.world.world_model import WorldModel

ROWS, STEPS = 16, 8
NATS = 0.02  # a code, at most; on average, with its sign, a tenth of that
SHARE = 0.01  # of a probability's or a reward's range
GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")])


def random_of(preset: str, **prior: Any) -> WorldModel:
    config = PRESETS[preset]
    return random_world(replace(config, prior=replace(config.prior, **prior)), (32, 32))


WORLDS = {
    "raster": lambda: WorldModel.from_pretrained("toy"),
    "columns": lambda: WorldModel.from_pretrained("doom-take-cover-small"),
    "frame": lambda: random_of("tiny", order="frame"),
    "mixture": lambda: random_of("tiny", order="groups", mixture=2),
    "flat": lambda: random_of("tiny-flat"),
    "flat, shared keys": lambda: random_of("tiny-flat", num_kv_heads=1),
}


def world_on(name: str, device: str) -> WorldModel:
    world = WORLDS[name]().to(device)
    assert world.starts is not None
    world.starts = world.starts.to(device)
    return world


def dreamt(simulator: Simulator) -> tuple[CodeClip, torch.Tensor]:
    """What a simulator dreams, as a clip, and the nats of its frames that it told: (B, T)."""
    simulator.reset()
    first, status, steps, taken = simulator.state.codes, simulator.state.prior.status, [], []
    for t in range(STEPS):
        taken.append(some_actions(simulator.world.spec.action_space, ROWS, seed=t).to(first.device))
        steps.append(simulator.step(taken[-1]))
    ended = torch.stack([step.terminations for step in steps], 1)
    has_frame = ~ended if not simulator.world.prior.end_has_frame else torch.ones_like(ended)
    codes = torch.stack([first, *(step.codes for step in steps)], 1)
    clip = CodeClip(
        codes=codes,
        frame_valid=torch.cat([torch.ones_like(ended[:, :1]), has_frame], 1),
        actions=torch.stack(taken, 1),
        rewards=torch.stack([step.rewards for step in steps], 1),
        terminations=torch.zeros_like(ended),
        truncations=torch.zeros_like(ended),
        status=torch.stack([status, *(step.status for step in steps)], 1),
        weights=torch.ones_like(codes[:, :, 0, 0], dtype=torch.float32),
    )
    return clip, torch.stack([step.log_probs for step in steps], 1)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("name", WORLDS)
def test_half_precision_says_the_same_within_the_stated_tolerance(name: str, device: str) -> None:
    world = world_on(name, device)
    prior, places = world.prior, world.prior.grid[0] * world.prior.grid[1]
    clip, _ = dreamt(Simulator(world, ROWS, seed=1, backend="torch"))
    said = []
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            said.append((prior.log_prob(clip)[:, 1:] / places, prior.outcomes(clip)))
    (nats, told), (half_nats, half_told) = said
    assert not torch.equal(half_nats, nats), "bfloat16 is in use"
    assert (half_nats - nats).abs().max() < NATS
    assert (half_nats - nats).mean().abs() < NATS / 10
    for field in ("hazards", "status_probs"):
        assert torch.allclose(getattr(half_told, field), getattr(told, field), rtol=0, atol=SHARE)
    assert (half_told.rewards - told.rewards).abs().max() < SHARE * max(1.0, float(told.rewards.abs().max()))


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("name", [name for name in WORLDS if name != "mixture"])
def test_what_a_dream_in_half_precision_tells_is_what_float32_says_of_it(name: str, device: str) -> None:
    world = world_on(name, device)
    places = world.prior.grid[0] * world.prior.grid[1]
    simulator = Simulator(world, ROWS, seed=1, dtype=torch.bfloat16)
    clip, told = dreamt(simulator)
    wanted = world.prior.log_prob(clip)[:, 1:]
    going = clip.frame_valid[:, 1:]
    assert going.float().mean() > 0.9
    assert ((told - wanted)[going] / places).abs().max() < NATS
