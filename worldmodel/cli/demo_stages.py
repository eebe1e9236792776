"""The stages of the demo: each reads the products of those before it and writes its own.

Shapes: T frames, H x W pixels. Frames are (T, H, W, 3) uint8.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldmodel.cli.progress import print_status, progress_bar

if TYPE_CHECKING:
    from worldmodel.cli.demo import Demo
    from worldmodel.data import Dataset
    from worldmodel.world.world_model import WorldModel

STRIP_FRAMES = 12  # frames in a row of strip.png


def record(config: Demo, path: Path) -> None:
    """Record the dataset."""
    from worldmodel.collect.collect_command import collect
    from worldmodel.collect.collect_config import Collect

    collect(
        Collect(
            path, config.env, config.policy, config.mix, episodes=config.episodes, seed=config.seed,
            workers=config.workers,
        )
    )  # fmt: skip


def inspect(path: Path, out: Path) -> None:
    """Verify the dataset, print its summary, write contact-sheet.png and episodes.gif."""
    from worldmodel.data import Dataset
    from worldmodel.data.preview import contact_sheet, gif
    from worldmodel.data.summary import format_summary, summarize
    from worldmodel.data.verification import verify

    print_status(str(verify(path)))
    with Dataset(path) as data:
        print(format_summary(summarize(data)))
        contact_sheet(data, out / "contact-sheet.png", num_episodes=6)
        gif(data, out / "episodes.gif")


def train(config: Demo, path: Path, world: Path) -> None:
    """Train tokenizer and prior."""
    from worldmodel.dream.dream_clips import render_comparisons
    from worldmodel.train.presets import PRESETS
    from worldmodel.train.trainers import train_world

    with progress_bar() as progress:
        train_world(
            path,
            world,
            PRESETS[config.world_preset],
            minutes=config.world_minutes,
            progress=progress,
            draw_dreams=render_comparisons,
        )


def evaluate(config: Demo, path: Path, world_path: Path, out: Path) -> None:
    """Evaluate the world on the test split and write the result of `worldmodel.metrics.evaluate` as JSON."""
    from worldmodel import metrics
    from worldmodel.cli.eval_world import policies_of, rules_of
    from worldmodel.common.files import atomic_path
    from worldmodel.data import Dataset
    from worldmodel.world.world_model import WorldModel

    world = WorldModel.from_pretrained(world_path)
    settings = metrics.EvaluationSettings(clips=config.eval_clips, rows=config.eval_rows, horizon=60, seed=config.seed)
    with Dataset.open_cropped(path, world.spec.pixels) as data, progress_bar() as progress:
        result = metrics.evaluate(world, data, policies_of(data), settings, progress, rules_of(world.spec.env))
    with atomic_path(out) as temporary:
        temporary.write_text(json.dumps(result))


def dream(config: Demo, path: Path, world_path: Path, out: Path) -> None:
    """Check the learned environment, measure its speed, and draw real and dreamed clips of the test split."""
    import warnings

    import gymnasium
    from gymnasium.utils.env_checker import check_env
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    import worldmodel
    from worldmodel.common.files import atomic_path
    from worldmodel.common.runtime import choose_runtime
    from worldmodel.data import Dataset
    from worldmodel.dream import DreamVectorEnv

    choose_runtime("cpu", threads=1)  # for one row a second thread costs more than it helps
    env: Any = gymnasium.make(worldmodel.DREAM_ID, world=str(world_path), render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(env.unwrapped, skip_render_check=True)
        sb3_check_env(env.unwrapped)
    world = env.unwrapped.world
    figures: dict[str, Any] = {"steps_per_second": {"1": _steps_per_second(env, 1, config.seed)}, **world.report}
    for rows in (16, 64):
        envs = DreamVectorEnv(rows, world=world)
        figures["steps_per_second"][str(rows)] = _steps_per_second(envs, rows, config.seed)
    with Dataset.open_cropped(path, world.spec.pixels) as data:
        _draw_clips(world, data, config.seed, out)
    env.close()
    with atomic_path(out / "dream.json") as temporary:
        temporary.write_text(json.dumps(figures))


def policy(config: Demo, world: Path, out: Path) -> None:
    """Train a policy in dreams of a world and test it in the real environment."""
    from worldmodel.collect.collect_config import TrainPolicy
    from worldmodel.collect.learner_config import dream_learner_config
    from worldmodel.collect.policy_training import train_policy

    learner = replace(dream_learner_config(config.env), minutes=config.policy_minutes, decisions=10**7)
    train_policy(
        TrainPolicy(
            out, config.env, config.seed, learner=learner, world=world, test_episodes=config.test_episodes
        )
    )  # fmt: skip


def _steps_per_second(env: Any, rows: int, seed: int, seconds: float = 4.0) -> float:
    """Whole steps per second, of all rows together, through a gymnasium (vector) environment; random actions."""
    from worldmodel.bench.timing import Job, Measurement

    env.reset(seed=seed)
    env.action_space.seed(seed)
    env.step(env.action_space.sample())

    def step() -> None:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if rows == 1 and (terminated or truncated):
            env.reset()

    return rows * Measurement.of(Job(step, seconds)).rate


def _draw_clips(world: WorldModel, data: Dataset, seed: int, out: Path) -> None:
    """Write strip.png, real-above-dream.gif and futures.png; the seed chooses the clips."""
    from worldmodel.cli.videos import frame_strips, write_side_by_side_gif
    from worldmodel.common.files import atomic_path
    from worldmodel.dream.dream_clips import compare_clip

    rng = np.random.default_rng(seed)
    test = data.episodes_of("test")
    # the longest clip that three episodes have, up to two strips
    frames = min(2 * STRIP_FRAMES, int(np.sort(data.lengths[test])[-min(3, len(test))]))
    long = test[data.lengths[test] >= frames]
    episodes = rng.choice(long, min(3, len(long)), replace=False)
    starts = [int(rng.integers(0, data.lengths[n] - frames + 1)) for n in episodes]
    clips = [compare_clip(world, data, int(n), start, frames) for n, start in zip(episodes, starts, strict=True)]
    rows = []
    for i, clip in enumerate(clips):
        rows += [
            (f"real {i + 1}", clip.real[::2]),
            ("codes", clip.reconstructed[::2]),
            ("dreamed", clip.dreamed[::2]),
        ]
    with atomic_path(out / "strip.png") as temporary:
        temporary.write_bytes(frame_strips(rows))
    write_side_by_side_gif(
        out / "real-above-dream.gif", [np.concatenate([c.real, c.reconstructed, c.dreamed], axis=1) for c in clips]
    )
    futures = []
    for label, action in _repeated_actions(world, rng):
        actions = np.repeat(action[None], frames - 1, axis=0)
        dreamed = compare_clip(world, data, int(episodes[0]), starts[0], frames, actions).dreamed
        futures.append((f"always {label}", dreamed[::2]))
    with atomic_path(out / "futures.png") as temporary:
        temporary.write_bytes(frame_strips(futures))


def _repeated_actions(world: WorldModel, rng: np.random.Generator) -> list[tuple[str, np.ndarray]]:
    """Labels and actions, () or (A,): every action of a Discrete space, else a few random ones."""
    from worldmodel.common import spaces

    space, labels = world.spec.action_space, world.spec.action_labels
    if isinstance(space, spaces.Discrete):
        return [(str(labels[n] if labels else n), np.asarray(n, space.dtype)) for n in range(space.n)]
    actions = [np.asarray(space.sample(rng), space.dtype) for _ in range(3)]
    return [(np.array2string(action, precision=2), action) for action in actions]
