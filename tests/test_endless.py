"""Endless dreams: constant time and memory per step, and rows that are reset at any step dream like new ones."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from untrained import make_world, some_actions

from worldmodel.dream import DreamVectorEnv, Simulator
from worldmodel.train.presets import PRESETS

STEPS, PART = 10_000, 1_000
GROWTH = 12 * 2**20  # bytes by which the process may grow between the first and the last part: allocator noise


def resident_bytes() -> int:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("flat", [False, True], ids=["factored", "flat"])
def test_ten_thousand_steps_take_constant_time_and_memory(flat: bool, rows: int) -> None:
    world = make_world(flat=flat, hazard=-4.0)
    tiles = rows > 1  # a single row needs none
    simulator, rng = Simulator(world, rows, batch_invariant=tiles, starts="any"), np.random.default_rng(0)
    simulator.reset()
    seconds, compared, ends = np.zeros(STEPS), 0, 0
    alone: Simulator | None = None
    before = row = 0
    for t in range(STEPS):
        if t % 50 == 0:  # reset a row and compare it with a dream of its own for some steps
            row = int(rng.integers(rows))
            alone = Simulator(world, 1, seed=t, batch_invariant=tiles, starts="any")
            simulator.seed(torch.tensor([t]), torch.tensor([row]))
            simulator.reset(torch.tensor([row]))
            assert torch.equal(alone.reset()[0], simulator.state.frames[row])
        elif rng.random() < 0.02:
            other = int(rng.integers(rows))
            simulator.reset(torch.tensor([other]))
            alone = None if other == row else alone
        if t % 50 == 8:
            alone = None
        actions = some_actions(world.spec.action_space, rows, seed=t)
        start = time.process_time()
        out = simulator.step(actions)
        seconds[t] = time.process_time() - start
        assert all(torch.isfinite(x).all() for x in (out.rewards, out.hazards, out.log_probs))
        assert all(torch.isfinite(x).all() for x in vars(simulator.state.prior).values() if x.is_floating_point())
        if alone is not None:
            expected = alone.step(actions[row : row + 1])
            for name in ("frames", "rewards", "terminations", "hazards", "log_probs", "status"):
                assert torch.equal(getattr(expected, name)[0], getattr(out, name)[row]), (t, name)
            compared += 1
        ended = torch.nonzero(out.terminations)[:, 0]
        if len(ended):
            ends += len(ended)
            alone = None if row in ended else alone
            simulator.reset(ended)
        if t == PART:
            before = resident_bytes()
    assert compared > 300
    assert ends > 20
    assert resident_bytes() - before < GROWTH
    first, last = np.median(seconds[:PART]), np.median(seconds[-PART:])
    assert last < 1.5 * first, (first, last)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_a_hundred_thousand_steps_of_the_toys_size_leak_no_memory() -> None:
    sizes = {k: v for k, v in vars(PRESETS["toy"].prior).items() if k not in ("kind", "status")}
    envs = DreamVectorEnv(50, world=make_world(**sizes), autoreset_mode="SameStep", info=["codes"])
    envs.action_space.seed(0)
    envs.reset(seed=0)
    before, ends = 0, 0
    for t in range(2_000):
        *_, terminations, truncations, _ = envs.step(envs.action_space.sample())
        ends += int((terminations | truncations).sum())
        if t == 200:
            before = resident_bytes()
    assert ends > 1_000
    assert resident_bytes() - before < GROWTH
