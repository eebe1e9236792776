"""`worldmodel demo`: the whole way on real take-cover, with a page at the end.

Each stage leaves something behind and is skipped when that is there, so the same command goes on after an interruption.
"""

from __future__ import annotations

import json
import shutil
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
    """Play real ViZDoom take-cover, record it, learn a small world from it, dream, and write a page about it all.

    Takes some five minutes on two cores. Interrupted, the same command goes on where it stopped.

    Example:
        worldmodel demo --out runs/demo
    """

    out: Path = Path("runs/demo")
    """Where everything goes: policy, dataset, world, page."""
    env: str = "doom/take-cover"
    episodes: int = 320
    policy_minutes: float = 0.75
    """Training of the policy that plays a part of the episodes."""
    world_minutes: float = 2.5
    """Training of tokenizer and prior."""
    world_preset: str = "doom-take-cover-demo"
    mix: str = "periodic=0.35,random=0.25,sticky=0.2"
    """Shares of the episodes that scripted policies play; PPO plays the rest."""
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
    from worldmodel.runinfo import refuse_other_run, save_run_info

    out, run = config.out, config.out / "run.json"
    if config.force:
        shutil.rmtree(out, ignore_errors=True)
    refuse_other_run(run, out, config)
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

    data_path, world_path = out / "cover.h5", out / "world"
    learner = f"PPO learns for {config.policy_minutes:g} min"
    stage(
        "record",
        f"{learner}, then {config.episodes} episodes of real {config.env} -> {data_path}",
        data_path,
        lambda: _record(config, data_path),
    )
    stage(
        "look",
        f"checksums, contact sheet and animation -> {out}",
        out / "episodes.gif",
        lambda: _look(data_path, out),
    )
    stage(
        "learn",
        f"tokenizer and prior for {config.world_minutes:g} min -> {world_path}",
        world_path,
        lambda: _learn(config, data_path, world_path),
    )
    dream = out / "dream.json"
    stage(
        "dream",
        f"stepping the learned world -> {out}",
        dream,
        lambda: _dream(config, data_path, world_path, out),
    )
    _page(config, out, seconds)
    print(_closing(config, out))


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _record(config: Demo, path: Path) -> None:
    from worldmodel.collect.collector import collect
    from worldmodel.collect.config import Collect, learner_for

    learner = replace(learner_for(config.env), minutes=config.policy_minutes, decisions=10**7)
    collect(
        Collect(
            path, config.env, "ppo", config.mix, episodes=config.episodes, seed=config.seed, workers=config.workers,
            learner=learner,
        )
    )  # fmt: skip


def _look(path: Path, out: Path) -> None:
    from worldmodel.data import Dataset
    from worldmodel.data.preview import contact_sheet, gif
    from worldmodel.data.summary import format_summary, summarize
    from worldmodel.data.verify import verify

    say(str(verify(path)))
    with Dataset(path) as data:
        print(format_summary(summarize(data)))
        contact_sheet(data, out / "contact-sheet.png", num_episodes=6)
        gif(data, out / "episodes.gif")


def _learn(config: Demo, path: Path, world: Path) -> None:
    from worldmodel.commands import progress_bar
    from worldmodel.presets import PRESETS
    from worldmodel.train.world import train_world

    with progress_bar() as progress:
        train_world(path, world, PRESETS[config.world_preset], minutes=config.world_minutes, progress=progress)


def _dream(config: Demo, path: Path, world_path: Path, out: Path) -> None:
    """Check the learned environment, time it, and draw real beside dreamed frames of the test split."""
    import warnings

    import gymnasium
    from gymnasium.utils.env_checker import check_env

    import worldmodel
    from worldmodel import report
    from worldmodel.data import Dataset
    from worldmodel.data.files import atomic_path
    from worldmodel.dream.show import show_clip

    env: Any = gymnasium.make(worldmodel.DREAM_ID, world=str(world_path), render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(env.unwrapped, skip_render_check=True)
    env.reset(seed=config.seed)
    begun, steps = time.perf_counter(), 0
    while time.perf_counter() - begun < 5:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        steps += 1
        if terminated or truncated:
            env.reset()
    figures: dict[str, Any] = {
        "steps_per_second": steps / (time.perf_counter() - begun),
        "check_env": "passed",
    }
    learned = env.unwrapped.world
    with Dataset(path) as data:
        rng = np.random.default_rng(config.seed)  # clips drawn by the seed, before anything is seen
        test = data.episodes_of("test")
        frames = min(2 * STRIP, int(np.sort(data.lengths[test])[-min(3, len(test))]))  # three episodes are so long
        long = test[data.lengths[test] >= frames]
        numbers = rng.choice(long, min(3, len(long)), replace=False)
        moments = [int(rng.integers(0, data.lengths[n] - frames + 1)) for n in numbers]
        clips = [show_clip(learned, data, int(n), m, frames) for n, m in zip(numbers, moments, strict=True)]
        rows = []
        for i, clip in enumerate(clips):
            rows += [
                (f"real {i + 1}", clip.real[::2]),
                ("through\nthe codes", clip.reconstructed[::2]),
                ("dreamed,\nsame actions", clip.dreamed[::2]),
            ]
        with atomic_path(out / "strip.png") as temporary:
            temporary.write_bytes(report.strips(rows))
        videos = [np.concatenate([c.real, c.dreamed], axis=1) for c in clips]
        report.side_by_side_gif(out / "real-above-dream.gif", videos)
        labels = data.header.action_labels or tuple(map(str, range(env.action_space.n)))
        plans = [(label, np.full(frames - 1, a)) for a, label in enumerate(labels)]
        futures = [
            (
                f"always\n{label}",
                show_clip(learned, data, int(numbers[0]), moments[0], frames, plan).dreamed[::2],
            )
            for label, plan in plans
        ]
        with atomic_path(out / "futures.png") as temporary:
            temporary.write_bytes(report.strips(futures))
    env.close()
    figures |= learned.report
    with atomic_path(out / "dream.json") as temporary:
        temporary.write_text(json.dumps(figures))


def _page(config: Demo, out: Path, seconds: dict[str, float]) -> None:
    from worldmodel import report
    from worldmodel.data import Dataset
    from worldmodel.data.summary import summarize
    from worldmodel.runinfo import code_version, machine

    figures = _read(out / "dream.json")
    with Dataset(out / "cover.h5") as data:
        summary = summarize(data)
        histograms = report.dataset_histograms(data)
    recorded = report.Section("What was recorded").text(
        f"{summary['num_episodes']} whole episodes of {config.env}, {summary['num_steps']} steps of four tics, in one "
        "file with a checksum for each episode. Every episode knows the policy that played it."
    )
    recorded.table(policy_rows(summary)).image(histograms, "histograms of return, length and actions")
    recorded.image(out / "contact-sheet.png", "contact sheet").image(out / "episodes.gif", "episodes")
    policy = report.read_jsonl(out / "cover.policy" / "curve.jsonl")
    panels = []
    if policy:
        panels.append(
            ("minutes", "mean return of 100 episodes",
             [("PPO, real game", [r["minutes"] for r in policy], [r["return_mean"] for r in policy])])
        )  # fmt: skip
    for name, figure, label in (
        ("tokenizer", "reconstruction", "reconstruction loss"),
        ("prior", "codes", "nats a code"),
    ):
        log = report.read_jsonl(out / "world" / "training" / f"{name}.jsonl")
        log = [row for row in log if figure in row]
        if log:
            panels.append(("steps", label, [(name, [r["step"] for r in log], [r[figure] for r in log])]))
    learned = report.Section("What was learned")
    if panels:
        learned.image(report.curves(panels), "curves")
    learned.table(
        [
            {"figure": "reconstruction of held-out frames, PSNR", "value": figures["psnr"], "beside": ""},
            {
                "figure": "held-out codes given the true actions, nats a code",
                "value": figures["nats_per_code"],
                "beside": f"{figures['nats_per_code_shuffled']:.3g} with another clip's actions",
            },
            {
                "figure": "whole steps a second, one dream, this machine",
                "value": figures["steps_per_second"],
                "beside": "",
            },
            {"figure": "gymnasium's check_env", "value": figures["check_env"], "beside": ""},
        ]
    )
    dreamed = report.Section("What it dreams").text(
        "Clips of the test split, drawn by the seed before anything was seen; every second frame. The dream is given "
        "the frames up to the first one shown and the actions that were really taken. It is one sample: what is not "
        "determined by the past, such as where the next fireball appears, may differ."
    )
    dreamed.image(out / "strip.png", "real, reconstructed and dreamed frames")
    dreamed.image(out / "real-above-dream.gif", "real above, dreamed below")
    dreamed.text("One start, three plans: the same action all the time.").image(out / "futures.png", "three futures")
    dreamed.text(
        "A few minutes on two cores give a rough dream: walls move with the action, fireballs come and go, ends are "
        "rare and hard. Train longer with the command below.",
        note=True,
    )
    closing = report.Section("Try next").code(_closing(config, out))
    spent = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    about = machine()
    report.write_page(
        out / "report.html",
        "A learned world of take-cover",
        f"worldmodel {code_version()}; {about['processor']}, {about['cores']} cores; {spent}.",
        [recorded, learned, dreamed, closing],
    )


def policy_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """A summary's policies as rows of a table."""
    return [
        {
            "policy": policy["name"],
            "episodes": policy["episodes"],
            "mean return": policy["return"]["mean"],
            "mean steps": policy["length"]["mean"],
            "longest": policy["length"]["max"],
        }
        for policy in summary["policies"]
    ]


def _closing(config: Demo, out: Path) -> str:
    return (
        f"The page: {out}/report.html\n\n"
        "Try next:\n"
        f"  worldmodel data info {out}/cover.h5\n"
        f"  worldmodel eval policy {out}/cover.policy periodic random --episodes 40\n"
        f"  worldmodel train world --preset {config.world_preset} --data {out}/cover.h5 --minutes 20 "
        "--out runs/longer\n"
        "  python -c \"import gymnasium, worldmodel; env = gymnasium.make('worldmodel/Dream-v0', "
        f"world='{out}/world'); print(env.reset(seed=0)[0].shape)\""
    )
