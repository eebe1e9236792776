"""What differs between a GPU run and its rehearsal on the toy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from worldmodel.collect.learner_config import LEARNER_PRESETS, LearnerConfig


@dataclass(frozen=True)
class Sizes:
    """Sizes of a run.

    Attributes:
        env, env_kwargs: the environment that is recorded.
        preset, flat: presets of the two worlds.
        scale: seconds of a "minute" of the command line.
        first: episodes that each process records while the rate is measured.
        max_episodes: episodes at most.
        evaluation: fields of `worldmodel.metrics.EvaluationSettings`.
        learner: PPO's settings in the dream.
        test_episodes: episodes of each policy in the real environment.
        rows: numbers N of dreams whose speed is measured.
        flat_rows: the same for the flat prior, which has a large cache.
        timed: duration of each measurement of speed, seconds.
        flat_seconds: training of the flat prior at most.
    """

    env: str = "doom/take-cover"
    env_kwargs: tuple[tuple[str, Any], ...] = ()
    preset: str = "doom-take-cover-gpu"
    flat: str = "doom-take-cover-gpu-flat"
    scale: float = 60.0
    first: int = 12
    max_episodes: int = 20_000
    evaluation: tuple[tuple[str, Any], ...] = (("rows", 128),)
    learner: LearnerConfig = replace(  # noqa: RUF009 (frozen)
        LEARNER_PRESETS["doom/take-cover"], num_envs=256, rollout_steps=32, batch_size=1024, decisions=10**9
    )
    test_episodes: int = 300
    rows: tuple[int, ...] = (1, 64, 1024)
    flat_rows: tuple[int, ...] = (1, 64, 512)
    timed: float = 1.5
    flat_seconds: float = 3600.0


TINY = Sizes(
    env="toy",
    env_kwargs=(("size", (16, 16)),),
    preset="tiny",
    flat="tiny-flat",
    scale=1.0,
    first=15,
    max_episodes=60,
    evaluation=(("clips", 8), ("ahead", 3), ("horizon", 8), ("rows", 4)),
    learner=replace(
        LEARNER_PRESETS["toy"],
        num_envs=4,
        rollout_steps=16,
        batch_size=32,
        epochs=1,
        frame_stack=2,
        width=4,
        decisions=10**9,
        checkpoint_seconds=0.5,
    ),
    test_episodes=4,
    rows=(1, 8),
    flat_rows=(1, 4),
    timed=0.1,
    flat_seconds=1.5,
)
