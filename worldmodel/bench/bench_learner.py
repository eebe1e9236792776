"""Stable-Baselines3's PPO learning in dreams, end to end: decisions a second, and where its time goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

from worldmodel.dream import DreamVecEnv
from worldmodel.world.world_model import WorldModel

ROLLOUT = 32  # decisions of each row between two updates
SMALLEST = 36  # pixels that SB3's convolutions need each way


class Stopwatch:
    """Adds up the seconds spent inside some methods.

    Attributes:
        seconds: by the names given to `watch`.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, thing: Any, method: str, name: str) -> None:
        """Count what an object's method takes from now on under a name."""
        inner: Callable[..., Any] = getattr(thing, method)
        self.seconds[name] = 0.0

        def timed(*arguments: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            try:
                return inner(*arguments, **named)
            finally:
                self.seconds[name] += time.perf_counter() - begun

        setattr(thing, method, timed)


def bench_learner(world: WorldModel, rows: int, seconds: float, rounds: int, **dream: Any) -> dict[str, Any]:
    """Let PPO with SB3's own network for pictures learn in a world, with one thread on a CPU.

    Args:
        world: the world.
        rows: dreams side by side.
        seconds: how long each round lasts, at least; a round is whole updates.
        rounds: how often; the median is told. One update before is not timed.
        dream: more arguments of `DreamVecEnv`.

    Returns:
        "rows"; "policy", SB3's network, "MlpPolicy" where the frames are too small for its convolutions;
        "decisions/s" of all rows together, learning included; "dream alone, steps/s" of the same face without a
        learner, in turn with it; the shares of the time that go into dreaming, into updates, and into everything
        else (the policy's choices, the buffer).
    """
    from stable_baselines3 import PPO

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        envs = DreamVecEnv(world, rows, **dream)
        policy = "CnnPolicy" if min(world.spec.pixels.frame_shape[:2]) >= SMALLEST else "MlpPolicy"
        ppo = PPO(policy, envs, n_steps=ROLLOUT, batch_size=min(256, ROLLOUT * rows), n_epochs=4, seed=0)
        watch = Stopwatch()
        watch.watch(envs, "step_wait", "dream")
        watch.watch(ppo, "train", "update")
        ppo.learn(ROLLOUT * rows)
        found: list[dict[str, float]] = []
        for _ in range(rounds):
            before, begun, decisions = dict(watch.seconds), time.perf_counter(), 0
            while not decisions or time.perf_counter() - begun < seconds:
                ppo.learn(ROLLOUT * rows, reset_num_timesteps=False)
                decisions += ROLLOUT * rows
            spent = time.perf_counter() - begun
            dreamt, updated = (watch.seconds[name] - before[name] for name in ("dream", "update"))
            found.append(
                {
                    "decisions/s": decisions / spent,
                    "dream alone, steps/s": _alone(envs, rows, seconds),
                    "share dream": dreamt / spent,
                    "share updates": updated / spent,
                    "share else": (spent - dreamt - updated) / spent,
                }
            )
    finally:
        torch.set_num_threads(threads)
    return {"rows": rows, "policy": policy, **{name: median(turn[name] for turn in found) for name in found[0]}}


def _alone(envs: DreamVecEnv, rows: int, seconds: float) -> float:
    """Steps a second of the face alone, all rows together, random actions."""
    actions = np.stack([envs.action_space.sample() for _ in range(rows)])
    begun, steps = time.perf_counter(), 0
    while not steps or time.perf_counter() - begun < seconds:
        envs.step_async(actions)
        envs.step_wait()
        steps += rows
    return steps / (time.perf_counter() - begun)
