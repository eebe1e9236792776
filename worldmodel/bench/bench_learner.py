"""PPO of Stable-Baselines3 in dreams, end to end: decisions per second, and the shares of the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

from worldmodel.bench.timing import Clock, interleave
from worldmodel.dream import DreamVecEnv
from worldmodel.world.world_model import WorldModel

ROLLOUT_STEPS = 32  # decisions of each row between two updates
MIN_CNN_SIZE = 36  # pixels in height and width that SB3's convolutions need


class Stopwatch:
    """Adds up the seconds spent inside some methods.

    Args:
        clock: returns seconds.

    Attributes:
        seconds: by the names given to `watch`.
    """

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self.clock = clock
        self.seconds: dict[str, float] = {}

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Add the time of every later call of an object's method to `seconds[name]`."""
        inner: Callable[..., Any] = getattr(owner, method)
        self.seconds[name] = 0.0

        def timed(*arguments: Any, **named: Any) -> Any:
            begin = self.clock()
            try:
                return inner(*arguments, **named)
            finally:
                self.seconds[name] += self.clock() - begin

        setattr(owner, method, timed)


def bench_learner(world: WorldModel, rows: int, seconds: float, rounds: int, **dream: Any) -> dict[str, Any]:
    """Train PPO with SB3's own network for images in a world, with one thread on a CPU.

    Args:
        world: the world.
        rows: dreams of the batch.
        seconds: least duration of each round; a round consists of whole updates.
        rounds: repetitions; figures are medians. One update before the first is not timed.
        dream: more arguments of `DreamVecEnv`.

    Returns:
        "rows"; "policy", "MlpPolicy" if the frames are too small for the convolutions of "CnnPolicy"; "decisions/s"
        of all rows together, learning included; "dream alone, steps/s", the same environment without a learner in
        the same rounds; the shares of the time spent in dream steps, in updates, and in everything else (the
        policy's forward passes, the rollout buffer).
    """
    from stable_baselines3 import PPO

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        envs = DreamVecEnv(world, rows, **dream)
        policy = "CnnPolicy" if min(world.spec.pixels.frame_shape[:2]) >= MIN_CNN_SIZE else "MlpPolicy"
        ppo = PPO(policy, envs, n_steps=ROLLOUT_STEPS, batch_size=min(256, ROLLOUT_STEPS * rows), n_epochs=4, seed=0)
        watch = Stopwatch()
        watch.watch(envs, "step_wait", "dream")
        watch.watch(ppo, "train", "update")
        ppo.learn(ROLLOUT_STEPS * rows)
        measured = interleave(
            {
                "learner": lambda: _learn(ppo, watch, rows, seconds),
                "dream alone": lambda: {"dream alone, steps/s": _steps_per_second(envs, rows, seconds)},
            },
            rounds,
        )
    finally:
        torch.set_num_threads(threads)
    figures = [learner | alone for learner, alone in zip(*measured.values(), strict=True)]
    return {"rows": rows, "policy": policy, **{name: median(row[name] for row in figures) for name in figures[0]}}


def _learn(ppo: Any, watch: Stopwatch, rows: int, seconds: float) -> dict[str, float]:
    """Decisions per second, and the shares of the time, of some updates."""
    before, begin, decisions = dict(watch.seconds), time.perf_counter(), 0
    while not decisions or time.perf_counter() - begin < seconds:
        ppo.learn(ROLLOUT_STEPS * rows, reset_num_timesteps=False)
        decisions += ROLLOUT_STEPS * rows
    total = time.perf_counter() - begin
    dream, update = (watch.seconds[name] - before[name] for name in ("dream", "update"))
    return {
        "decisions/s": decisions / total,
        "share dream": dream / total,
        "share updates": update / total,
        "share other": (total - dream - update) / total,
    }


def _steps_per_second(envs: DreamVecEnv, rows: int, seconds: float) -> float:
    """Steps per second of the environment alone, of all rows together; random actions."""
    actions = np.stack([envs.action_space.sample() for _ in range(rows)])
    begin, steps = time.perf_counter(), 0
    while not steps or time.perf_counter() - begin < seconds:
        envs.step_async(actions)
        envs.step_wait()
        steps += rows
    return steps / (time.perf_counter() - begin)
