"""Decisions/s of PPO in the dreams of a world, end to end, and where the time goes, setting by setting.

    python benchmarks/learner_speed.py --out results/learner-speed.json
    python benchmarks/learner_speed.py --quick --out /tmp/learner-speed.json

Each setting is varied alone, and onnxruntime and two threads also together. The others are those of
`worldmodel train policy --world`, and so is the network. One decision is `hold` steps of the
dream. All settings are measured in every round, so that a slow moment of the machine affects all of them alike;
"times base" is the median over rounds of a setting's rate divided by the base's in the same round. A round of a setting
consists of whole updates. The shares: dream (steps, with their pixels), policy (forward passes that choose actions),
update (gradients), other (buffers, Stable-Baselines3).

--processor-time counts the processor time of this process, for a machine that does other work too; threads are then not
varied. --quick tests the script; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from worldmodel.bench.bench_learner import Stopwatch
from worldmodel.bench.timing import Clock, interleave
from worldmodel.collect.env_options import env_name
from worldmodel.collect.global_state import preserved_global_state
from worldmodel.collect.learner_config import LearnerConfig, dream_learner_config
from worldmodel.collect.learner_envs import dream_keywords
from worldmodel.collect.learner_model import new_model
from worldmodel.common.files import write_json_atomic
from worldmodel.common.memory import keep_freed_memory
from worldmodel.common.run_info import code_version, machine
from worldmodel.dream import DreamLearnerEnv
from worldmodel.world.world_model import WorldModel

VARIATIONS: dict[str, tuple[Any, ...]] = {
    "backend": ("torch", "onnx"),
    "threads": (1, 2),
    "num_envs": (16, 32, 64),
    "rollout_steps": (16, 32),
    "hold": (1, 2, 4),
    "width": (16, 32),
    "frame_stack": (2, 4),
    "last_action": (False, True),
}
BASE = "base"
COMBINED = {"backend": "onnx", "threads": 2}  # what costs nothing but cores, together


@dataclass(frozen=True)
class Round:
    """One setting in one round.

    Attributes:
        decisions: of all rows together.
        seconds: in all.
        parts: seconds by part of the work.
    """

    decisions: int
    seconds: float
    parts: dict[str, float]


class Learner:
    """PPO in dreams with some settings; one update has been made.

    Args:
        world: the world.
        learner: the settings.
        folder: for logs.
        clock: returns seconds.
    """

    def __init__(self, world: WorldModel, learner: LearnerConfig, folder: Path, clock: Clock) -> None:
        self.learner, self.clock, self.watch = learner, clock, Stopwatch(clock)
        torch.set_num_threads(learner.threads)
        dreams = DreamLearnerEnv(world, learner.num_envs, **dream_keywords(learner))
        self.model = new_model(learner, dreams, 0, folder, "cpu")
        self.model.tensorboard_log = None
        self.watch.watch(dreams, "step_wait", "dream")
        self.watch.watch(self.model.policy, "forward", "policy")
        self.watch.watch(self.model, "train", "update")
        self._update()

    def _update(self) -> None:
        self.model.learn(self.learner.rollout_steps * self.learner.num_envs, reset_num_timesteps=False)

    def round(self, seconds: float) -> Round:
        """Learn for at least so many seconds, in whole updates."""
        torch.set_num_threads(self.learner.threads)
        before, begin, decisions = dict(self.watch.seconds), self.clock(), 0
        while not decisions or self.clock() - begin < seconds:
            self._update()
            decisions += self.learner.rollout_steps * self.learner.num_envs
        total = self.clock() - begin
        parts = {name: spent - before[name] for name, spent in self.watch.seconds.items()}
        return Round(decisions, total, {**parts, "other": total - sum(parts.values())})


def settings(base: LearnerConfig, only: list[str]) -> dict[str, LearnerConfig]:
    """The base, each other value of each setting, and `COMBINED`: "hold 2" -> settings."""
    found = {BASE: base}
    for name in only:
        for value in VARIATIONS[name]:
            if value != getattr(base, name):
                found[f"{name} {value}"] = replace(base, **{name: value})
    if set(COMBINED) <= set(only):
        found[" and ".join(f"{name} {value}" for name, value in COMBINED.items())] = replace(base, **COMBINED)
    return found


def figures(name: str, learner: LearnerConfig, rounds: list[Round], base: list[Round]) -> dict[str, Any]:
    """A row of results: medians over rounds, and the interval of the lowest and the highest round."""
    rates = [r.decisions / r.seconds for r in rounds]
    ratios = [rate / (b.decisions / b.seconds) for rate, b in zip(rates, base, strict=True)]
    return {
        "setting": name,
        "decisions/s": median(rates),
        "decisions/s interval": [min(rates), max(rates)],
        "times base": median(ratios),
        "times base interval": [min(ratios), max(ratios)],
        "dream steps/s": median(rates) * learner.hold,
        **{f"share {part}": median(r.parts[part] / r.seconds for r in rounds) for part in rounds[0].parts},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    shares = [name for name in rows[0] if name.startswith("share ")]
    lines = [
        "| setting | decisions/s | times base | dream steps/s | " + " | ".join(shares) + " |",
        "|---|---|---|---|" + "---|" * len(shares),
    ]
    for row in rows:
        low, high = row["decisions/s interval"]
        lines.append(
            f"| {row['setting']} | {row['decisions/s']:.0f} [{low:.0f}, {high:.0f}] | {row['times base']:.2f} | "
            f"{row['dream steps/s']:.0f} | " + " | ".join(f"{row[name]:.0%}" for name in shares) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, write JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--world", default="doom-take-cover-small", help="a world directory or name")
    parser.add_argument(
        "--only", nargs="+", default=list(VARIATIONS), choices=list(VARIATIONS), help="settings to vary"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="least duration of a setting in a round")
    parser.add_argument("--processor-time", action="store_true", help="count processor time instead of time")
    parser.add_argument("--quick", action="store_true", help="one short round of short rollouts")
    args = parser.parse_args()
    keep_freed_memory()
    world = WorldModel.from_pretrained(args.world)
    base = replace(dream_learner_config(env_name("", Path(args.world))), backend="torch")
    if args.quick:
        base = replace(base, num_envs=4, rollout_steps=2, epochs=1, batch_size=8, hold=1)
        args.rounds, args.seconds = 1, 0.0
    clock = time.process_time if args.processor_time else time.perf_counter
    varied = settings(base, [name for name in args.only if name != "threads" or not args.processor_time])
    if args.quick:
        varied = {name: learner for name, learner in varied.items() if learner.num_envs * learner.rollout_steps <= 32}
    with tempfile.TemporaryDirectory() as folder, preserved_global_state():
        learners = {name: Learner(world, learner, Path(folder), clock) for name, learner in varied.items()}
        jobs: dict[str, Callable[[], Round]] = {
            name: partial(learner.round, args.seconds) for name, learner in learners.items()
        }
        measured = interleave(jobs, args.rounds, lambda done, total: print(f"{done}/{total}", end="\r", flush=True))
    rows = [figures(name, varied[name], rounds, measured[BASE]) for name, rounds in measured.items()]
    report = {
        "world": args.world,
        "base": vars(base),
        "rounds": args.rounds,
        "seconds": args.seconds,
        "clock": "processor" if args.processor_time else "wall",
        "quick": args.quick,
        "machine": machine(),
        "code_version": code_version(),
        "rows": rows,
    }
    write_json_atomic(args.out, report)
    print(table(rows))


if __name__ == "__main__":
    main()
