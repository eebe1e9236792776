"""`worldmodel demo`: the whole way on real take-cover, with a page at the end.

Each stage leaves something behind and is skipped when that is there, so the same command goes on after an interruption.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

STRIP = 12  # frames shown in a strip


@dataclass(frozen=True)
class Demo:
    """Play real ViZDoom take-cover, record it, learn a world, judge it, train a policy in it, test that outside.

    Takes some ten minutes on two cores. Interrupted, the same command goes on where it stopped.

    Example:
        worldmodel demo --out runs/demo
    """

    out: Path = Path("runs/demo")
    """Where everything goes: dataset, world, judgement, policy, page."""
    env: str = "doom/take-cover"
    episodes: int = 640
    policy: str = "periodic"
    mix: str = "random=0.3,sticky=0.2,sticky:0.98=0.2"
    """Shares of the episodes that other policies play; the last runs into walls and stays, as a learner will."""
    world_preset: str = "doom-take-cover-demo"
    world_minutes: float = 6.0
    """Training of tokenizer and prior."""
    judge_clips: int = 96
    """Clips of the test split that the world is judged on."""
    judge_rows: int = 32
    """Free runs of each policy that it is judged on."""
    policy_minutes: float = 1.5
    """Training of a policy in the dream."""
    test_episodes: int = 60
    """Episodes outside the dream."""
    seed: int = 0
    workers: int = 2
    force: bool = False
    """Begin anew: remove what stands at --out."""


def say(words: str) -> None:
    """A line about what is going on, on stderr."""
    print(words, file=sys.stderr, flush=True)


def demo(config: Demo) -> None:
    """Do what `worldmodel demo` asks, stage by stage.

    Raises:
        UserError: another demo's config stands at `config.out`.
    """
    from worldmodel.cli.demo_page import closing, write
    from worldmodel.common.run_info import check_same_run, remove_run, save_run_info

    out, run = config.out, config.out / "run.json"
    if config.force:
        remove_run(out)
    check_same_run(run, out, config)
    if not run.exists():
        save_run_info(run, "demo", config)
    say(f"Everything goes to {out}/. Press Ctrl-C at any time: the same command goes on.\n")
    seconds: dict[str, float] = _read(out / "seconds.json")

    def stage(name: str, words: str, done: Path, work: Callable[[], Any]) -> None:
        if done.exists():
            say(f"[{name}] is done: {done}")
            return
        say(f"[{name}] {words}")
        begun = time.monotonic()
        work()
        seconds[name] = seconds.get(name, 0.0) + time.monotonic() - begun
        (out / "seconds.json").write_text(json.dumps(seconds))

    data, world = out / "cover.h5", out / "world"
    stage(
        "record",
        f"{config.episodes} episodes of real {config.env} -> {data}",
        data,
        lambda: _record(config, data),
    )
    stage("look", f"checksums, contact sheet and animation -> {out}", out / "episodes.gif", lambda: _look(data, out))
    stage(
        "learn",
        f"tokenizer and prior for {config.world_minutes:g} min -> {world}",
        world,
        lambda: _learn(config, data, world),
    )
    stage(
        "judge",
        "free runs, likelihood, prediction and ends on the test split, beside rivals",
        out / "judged.json",
        lambda: _judge(config, data, world, out / "judged.json"),
    )
    stage(
        "dream",
        f"checkers, speed, pictures -> {out}",
        out / "dream.json",
        lambda: _dream(config, data, world, out),
    )
    stage(
        "policy",
        f"PPO learns in the dream for {config.policy_minutes:g} min, then {config.test_episodes} real episodes",
        out / "dreamer" / "test.json",
        lambda: _policy(config, world, out / "dreamer"),
    )
    write(config, out, seconds)
    print(closing(config, out))


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _record(config: Demo, path: Path) -> None:
    from worldmodel.collect.collect_command import collect
    from worldmodel.collect.collect_config import Collect

    collect(
        Collect(
            path, config.env, config.policy, config.mix, episodes=config.episodes, seed=config.seed,
            workers=config.workers,
        )
    )  # fmt: skip


def _look(path: Path, out: Path) -> None:
    from worldmodel.data import Dataset
    from worldmodel.data.preview import contact_sheet, gif
    from worldmodel.data.summary import format_summary, summarize
    from worldmodel.data.verification import verify

    say(str(verify(path)))
    with Dataset(path) as data:
        print(format_summary(summarize(data)))
        contact_sheet(data, out / "contact-sheet.png", num_episodes=6)
        gif(data, out / "episodes.gif")


def _learn(config: Demo, path: Path, world: Path) -> None:
    from worldmodel.cli.data_commands import progress_bar
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


def _judge(config: Demo, path: Path, world_path: Path, out: Path) -> None:
    from worldmodel.cli.data_commands import progress_bar
    from worldmodel.cli.eval_world import policies_of
    from worldmodel.common.files import atomic_path
    from worldmodel.data import Dataset
    from worldmodel.metrics import EvaluationSettings, evaluate
    from worldmodel.world.world_model import WorldModel

    world = WorldModel.from_pretrained(world_path)
    settings = EvaluationSettings(clips=config.judge_clips, rows=config.judge_rows, horizon=60, seed=config.seed)
    with Dataset.open_cropped(path, world.spec.pixels) as data, progress_bar() as progress:
        result = evaluate(world, data, policies_of(data), settings, progress)
    with atomic_path(out) as temporary:
        temporary.write_text(json.dumps(result))


def _dream(config: Demo, path: Path, world_path: Path, out: Path) -> None:
    """Check the learned environment, time it, and draw real beside dreamed frames of the test split."""
    import warnings

    import gymnasium
    from gymnasium.utils.env_checker import check_env
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    import worldmodel
    from worldmodel.common.files import atomic_path
    from worldmodel.common.runtime import choose_runtime
    from worldmodel.data import Dataset
    from worldmodel.dream import DreamVectorEnv

    choose_runtime("cpu", threads=1)  # at one row a second thread costs more than it helps
    env: Any = gymnasium.make(worldmodel.DREAM_ID, world=str(world_path), render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(env.unwrapped, skip_render_check=True)
        sb3_check_env(env.unwrapped)
    world = env.unwrapped.world
    figures: dict[str, Any] = {"steps_per_second": {"1": _speed(env, 1, config.seed)}, **world.report}
    for rows in (16, 64):
        figures["steps_per_second"][str(rows)] = _speed(DreamVectorEnv(rows, world=world), rows, config.seed)
    with Dataset.open_cropped(path, world.spec.pixels) as data:
        _draw(world, data, config.seed, out)
    env.close()
    with atomic_path(out / "dream.json") as temporary:
        temporary.write_text(json.dumps(figures))


def _speed(env: Any, rows: int, seed: int, seconds: float = 4.0) -> float:
    """Whole steps a second through a gymnasium face, random actions."""
    env.reset(seed=seed)
    env.action_space.seed(seed)
    env.step(env.action_space.sample())
    begun, steps = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        steps += rows
        if rows == 1 and (terminated or truncated):
            env.reset()
    return steps / (time.perf_counter() - begun)


def _draw(world: Any, data: Any, seed: int, out: Path) -> None:
    """Clips drawn by the seed, before anything is seen: strips, videos, and futures of one start."""
    from worldmodel.cli import report
    from worldmodel.common.files import atomic_path
    from worldmodel.dream.dream_clips import compare_clip

    rng = np.random.default_rng(seed)
    test = data.episodes_of("test")
    frames = min(2 * STRIP, int(np.sort(data.lengths[test])[-min(3, len(test))]))  # three episodes are so long
    long = test[data.lengths[test] >= frames]
    numbers = rng.choice(long, min(3, len(long)), replace=False)
    moments = [int(rng.integers(0, data.lengths[n] - frames + 1)) for n in numbers]
    clips = [compare_clip(world, data, int(n), m, frames) for n, m in zip(numbers, moments, strict=True)]
    rows = []
    for i, clip in enumerate(clips):
        rows += [
            (f"real {i + 1}", clip.real[::2]),
            ("codes", clip.reconstructed[::2]),
            ("dreamed", clip.dreamed[::2]),
        ]
    with atomic_path(out / "strip.png") as temporary:
        temporary.write_bytes(report.strips(rows))
    report.side_by_side_gif(
        out / "real-above-dream.gif", [np.concatenate([c.real, c.reconstructed, c.dreamed], axis=1) for c in clips]
    )
    space, labels = world.spec.action_space, world.spec.action_labels
    futures = []
    for action in range(space.n):
        plan = np.full(frames - 1, action)
        dream = compare_clip(world, data, int(numbers[0]), moments[0], frames, plan).dreamed
        futures.append((f"always {labels[action] if labels else action}", dream[::2]))
    with atomic_path(out / "futures.png") as temporary:
        temporary.write_bytes(report.strips(futures))


def _policy(config: Demo, world: Path, out: Path) -> None:
    from worldmodel.collect.collect_config import TrainPolicy, dream_learner_config
    from worldmodel.collect.policy_training import train_policy

    learner = replace(dream_learner_config(config.env), minutes=config.policy_minutes, decisions=10**7)
    train_policy(
        TrainPolicy(
            out, config.env, config.seed, learner=learner, world=world, test_episodes=config.test_episodes
        )
    )  # fmt: skip
