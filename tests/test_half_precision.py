"""How much a dream in bfloat16 may differ from float32: the tolerance in docs/guides/dream.md, in trained worlds.

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
from worldmodel.prior.code_clip import CodeClip
from worldmodel.train.presets import PRESETS
from worldmodel.world.world_model import WorldModel

ROWS, STEPS = 16, 8
NATS = 0.02  # per code, at most; the signed mean at most a tenth of that
SHARE = 0.01  # of the range of probabilities or rewards
GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")])


def random_preset_world(preset: str, **prior: Any) -> WorldModel:
    config = PRESETS[preset]
    return random_world(replace(config, prior=replace(config.prior, **prior)), (32, 32))


WORLDS = {
    "raster": lambda: WorldModel.from_pretrained("toy"),
    "columns": lambda: WorldModel.from_pretrained("doom-take-cover-small"),
    "frame": lambda: random_preset_world("tiny", order="frame"),
    "mixture": lambda: random_preset_world("tiny", order="groups", mixture=2),
    "flat": lambda: random_preset_world("tiny-flat"),
    "flat, shared keys": lambda: random_preset_world("tiny-flat", num_kv_heads=1),
}


def world_on(name: str, device: str) -> WorldModel:
    world = WORLDS[name]().to(device)
    assert world.starts is not None
    world.starts = world.starts.to(device)
    return world


def dream_clip(simulator: Simulator) -> tuple[CodeClip, torch.Tensor]:
    """A dream as a clip, and the log-probabilities that the simulator returned: (B, T)."""
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
def test_half_precision_predicts_the_same_within_the_tolerance(name: str, device: str) -> None:
    world = world_on(name, device)
    prior, places = world.prior, world.prior.grid[0] * world.prior.grid[1]
    clip, _ = dream_clip(Simulator(world, ROWS, seed=1, backend="torch"))
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            results.append((prior.log_prob(clip)[:, 1:] / places, prior.predict_outcomes(clip)))
    (nats, outcomes), (half_nats, half_outcomes) = results
    assert not torch.equal(half_nats, nats), "bfloat16 is in use"
    assert (half_nats - nats).abs().max() < NATS
    assert (half_nats - nats).mean().abs() < NATS / 10
    for field in ("hazards", "status_probs"):
        assert torch.allclose(getattr(half_outcomes, field), getattr(outcomes, field), rtol=0, atol=SHARE)
    assert (half_outcomes.rewards - outcomes.rewards).abs().max() < SHARE * max(
        1.0, float(outcomes.rewards.abs().max())
    )


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("name", [name for name in WORLDS if name != "mixture"])
def test_log_probs_of_a_half_precision_dream_agree_with_float32(name: str, device: str) -> None:
    world = world_on(name, device)
    places = world.prior.grid[0] * world.prior.grid[1]
    simulator = Simulator(world, ROWS, seed=1, dtype=torch.bfloat16)
    clip, log_probs = dream_clip(simulator)
    expected = world.prior.log_prob(clip)[:, 1:]
    valid = clip.frame_valid[:, 1:]
    assert valid.float().mean() > 0.9
    assert ((log_probs - expected)[valid] / places).abs().max() < NATS
