"""Dreams leave the rest of the program alone: torch's generator, threads and default dtype, and processes that fork."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from untrained import SIDE, make_world

from worldmodel.common.threads import limit_threads
from worldmodel.dream import CrossEntropy, DreamEnv, DreamLearnerEnv, DreamVectorEnv, Simulator
from worldmodel.dream.tensor_tree import tree_leaves
from worldmodel.world.world_model import WorldModel

FRAMES, ACTIONS = torch.zeros((2, 2, SIDE, SIDE, 3), dtype=torch.uint8), torch.zeros((2, 1), dtype=torch.int64)

ASYNC = """
import multiprocessing, os, sys
import gymnasium, numpy, torch
import worldmodel
from worldmodel import WorldModel
from worldmodel.dream import DreamEnv, DreamLearnerEnv, Simulator

def num_threads():
    return len(os.listdir("/proc/self/task"))

def step_async(context):
    envs = gymnasium.make_vec(
        worldmodel.DREAM_ID, num_envs=1, vectorization_mode="async", world="toy", vector_kwargs={"context": context}
    )
    first, _ = envs.reset(seed=0)
    frames, rewards, *_ = envs.step(numpy.array([1]))
    assert frames.shape == (1, 16, 16, 3) and numpy.isfinite(rewards).all()
    envs.reset(options={"frames": first[:1].repeat(3, 0), "actions": [0, 1]})
    envs.close()

def many_rows(world, queue):
    simulator = Simulator(world, 64)
    simulator.reset()
    queue.put(float(simulator.step(torch.zeros(64, dtype=torch.int64)).rewards.sum()))

if __name__ == "__main__":
    torch.set_num_threads(2)
    if sys.argv[1] == "fork":
        before = num_threads()
        world = WorldModel.from_pretrained("toy")
        simulator = Simulator(world, 1)
        state = simulator.save()
        for _ in range(2):
            simulator.reset()
            simulator.step(torch.tensor([0]))
            simulator.clone(torch.tensor([0]), torch.tensor([0]), torch.tensor([1]))
            simulator.restore(state)
        env = DreamEnv(world)
        frame, _ = env.reset(seed=0)
        env.reset(options={"frames": frame[None]})
        env.step(0)
        DreamLearnerEnv(world, 1).reset()
        assert num_threads() <= before, "a single dream started torch's threads"
        step_async("fork")
        before = num_threads()
        torch.zeros(10**7).add_(1)  # torch's threads start: they will be missing in a forked child
        assert num_threads() > before
        step_async("fork")
        queue = multiprocessing.get_context("fork").Queue()
        child = multiprocessing.get_context("fork").Process(target=many_rows, args=(world, queue), daemon=True)
        child.start()
        assert numpy.isfinite(queue.get(timeout=60))
        child.join()
        assert torch.get_num_threads() == 2
    else:
        step_async("spawn")
    print("done")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are counted in /proc")
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_dreams_step_in_gymnasiums_asynchronous_processes(context: str, tmp_path: Path) -> None:
    script = tmp_path / "step_async.py"
    script.write_text(ASYNC)
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, str(script), context], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.stdout.strip() == "done", done.stderr


def test_a_forked_child_is_limited_to_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with limit_threads(2):
            assert torch.get_num_threads() == 2
        monkeypatch.setattr("worldmodel.common.threads._PROCESS", -1)
        with limit_threads(2):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def results(world: WorldModel) -> list[torch.Tensor]:
    """Everything that the interfaces compute with a world."""
    simulator = Simulator(world, 2, backend="torch", starts="any")
    found = [simulator.reset()]
    for action in (0, 1, 2):
        found += tree_leaves(simulator.step(torch.tensor([action, 1])))
    found += tree_leaves(simulator.rollout(torch.ones((2, 3), dtype=torch.int64), world.context(FRAMES, ACTIONS)))
    plan = CrossEntropy(horizon=1, rounds=2, best=0.5).plan(reset(Simulator(world, 4, backend="torch")))
    found += [plan.actions, plan.rounds, world.log_prob(FRAMES, ACTIONS)]
    learner = DreamLearnerEnv(world, 2, hold=2, reward="status")
    vector, single = DreamVectorEnv(2, world=world), DreamEnv(world)
    single.reset(seed=0)
    arrays = [learner.reset(), *learner.step(np.ones(2, int))[:3]]
    arrays += [vector.reset(seed=0)[0], *vector.step(np.ones(2, int))[:4], *single.step(0)[:4]]
    return found + [torch.from_numpy(np.array(array)) for array in arrays]


def reset(simulator: Simulator) -> Simulator:
    simulator.reset()
    return simulator


@pytest.fixture
def restored_dtype() -> Iterator[None]:
    dtype = torch.get_default_dtype()
    yield
    torch.set_default_dtype(dtype)


@pytest.mark.usefixtures("restored_dtype")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["factored", "flat", "causal"])
def test_a_dream_does_not_depend_on_torchs_global_settings_or_change_them(
    kind: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    make_world(flat=kind == "flat", hazard=-1.0, causal=kind == "causal").save_pretrained(tmp_path / "world")
    expected = results(WorldModel.from_pretrained(tmp_path / "world"))
    torch.set_default_dtype(dtype)
    generator, threads = torch.get_rng_state(), torch.get_num_threads()
    loaded = WorldModel.from_pretrained(tmp_path / "world")
    found = results(loaded)
    assert torch.equal(torch.get_rng_state(), generator)
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, dtype)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_a_world_that_is_loaded_in_inference_mode_can_be_trained_further(tmp_path: Path) -> None:
    make_world().save_pretrained(tmp_path / "world")
    with torch.inference_mode():
        world: Any = WorldModel.from_pretrained(tmp_path / "world")
    assert not any(parameter.is_inference() for parameter in world.parameters())
