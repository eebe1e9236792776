"""The stages of the GPU run: each works in the run's folder and returns its figures, JSON.

Shapes: N rows (dreams of a batch).
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gpu_run import StagedRun, TrainingProgress
from gpu_sizes import Sizes

MIX = {"random": 0.3, "sticky": 0.25}  # shares of the episodes; the periodic policy plays the others
TEST_SEED = 1_000_000  # as `eval policy`: nothing else uses these
SHARES = {
    "record": 0.09,
    "tokenizer": 0.13,
    "prior": 0.29,
    "policy": 0.17,
}  # of the minutes; the flat prior has the rest
AFTER_FLAT = 0.07  # share of the minutes kept for the flat prior's codes, evaluation and speed


@dataclass
class Stages:
    """The stages of one run, with its sizes and its device."""

    run: StagedRun
    sizes: Sizes
    minutes: float
    device: str
    workers: int

    policy_title = "return in the dream"  # of the policy's curve

    def __post_init__(self) -> None:
        from worldmodel.common.runtime import choose_runtime
        from worldmodel.train.presets import PRESETS

        self.work = self.run.work
        self.runtime = choose_runtime(self.device)
        self.config, self.flat_config = PRESETS[self.sizes.preset], PRESETS[self.sizes.flat]
        self.files = [self.work / "first.h5", self.work / "rest.h5"]
        self.world_path, self.flat_path = self.work / "world", self.work / "flat"

    @property
    def shares(self) -> dict[str, float]:
        """Share of the minutes of each stage with a budget."""
        return SHARES

    def seconds(self, stage: str) -> float:
        """A stage's share of the budget."""
        return self.shares[stage] * self.minutes * self.sizes.scale

    def data(self) -> Any:
        """The recordings; there is no second file if the first took all the time."""
        from worldmodel.data import Dataset

        return Dataset([path for path in self.files if path.exists()])

    def world(self, path: Path | None = None) -> Any:
        """The trained world, on the device."""
        from worldmodel.world.world_model import WorldModel

        return WorldModel.from_pretrained(path or self.world_path, self.runtime.device)

    # -- recording -----------------------------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """A small file to measure the rate, then one that fills the time."""
        budget, begin = self.seconds("record"), time.monotonic()
        first = min(self.workers * self.sizes.first, self.sizes.max_episodes)
        measured = self._record(self.files[0], 0, first)
        if measured is not None:
            start_up, rate = measured
            elapsed = time.monotonic() - begin
            sealing = max(0.0, elapsed - start_up - first / rate) / first  # seconds per episode
            left = budget - elapsed - start_up
            count = min(int(left / (1 / rate + sealing)), self.sizes.max_episodes - first, self._max_on_disk())
            self.run.once("episodes", lambda: max(0, count))
        count = self.run.once("episodes", lambda: first)  # killed in between: as many as in the first file
        if count:
            self._record(self.files[1], 1, count)
        with self.data() as data:
            steps, names = data.num_steps, data.policies
            return {
                "episodes": data.num_episodes,
                "steps": steps,
                "bytes": sum(path.stat().st_size for path in self.files if path.exists()),
                "steps_per_second": self.run.plan.get("steps_per_second"),
                "workers": self.workers,
                "policies": {
                    name: {
                        "episodes": int((names == name).sum()),
                        "mean_steps": float(data.lengths[names == name].mean()),
                    }
                    for name in sorted(set(names.tolist()))
                },
            }

    def _record(self, path: Path, seed: int, episodes: int) -> tuple[float, float] | None:
        """Record a file: seconds until its first episode and episodes per second after it; None if it was there."""
        from worldmodel import envs
        from worldmodel.collect.recorder import RecordingPlan, make_header, record_plan

        kwargs = dict(self.sizes.env_kwargs)
        env = envs.make(self.sizes.env, **kwargs)
        meta, process_manager = env.meta, env.process_manager
        env.close()
        policies = self.mixture(meta.action_space)
        header = make_header(meta, policies, seed, episodes, (0, 1))
        begin, times, steps = time.monotonic(), [], 0

        def on_episode(index: int, length: int) -> None:
            nonlocal steps
            times.append(time.monotonic())
            steps += length
            if len(times) % 500 == 0:
                self.run.print(f"  {len(times)} of {episodes} episodes, {steps / (times[-1] - times[0]):.0f} steps/s")

        plan = RecordingPlan(path, header, policies, self.sizes.env, kwargs, process_manager)
        record_plan(plan, self.workers, progress=False, on_episode=on_episode)
        if len(times) < 2:
            return None
        steady = times[: max(2, int(0.8 * len(times)))]  # at the end some processes have nothing left to do
        seconds = max(steady[-1] - steady[0], 1e-3)
        self.run.plan["steps_per_second"] = round(steps / max(times[-1] - times[0], 1e-3))
        return times[0] - begin, (len(steady) - 1) / seconds

    def mixture(self, space: Any) -> tuple[Any, ...]:
        """The policies that are recorded, `PolicySpec` each, with their shares of the episodes."""
        return self.mixed_policies("periodic", MIX, space)

    def mixed_policies(self, base: str, shares: dict[str, float], space: Any, epsilon: float = 0.0) -> tuple[Any, ...]:
        """Policies by name, with their shares.

        Args:
            base: plays the episodes that the others leave.
            shares: policy -> share of the episodes.
            space: the action space.
            epsilon: share of random actions of each policy.
        """
        from worldmodel import envs
        from worldmodel.collect.policy_specs import mix_policies, parse_policy

        defaults = envs.policy_defaults(self.sizes.env)
        specs = {name: parse_policy(name, space, defaults, epsilon) for name in (base, *shares)}
        return mix_policies(specs[base], [replace(specs[name], share=share) for name, share in shares.items()])

    def _max_on_disk(self) -> int:
        """Episodes of maximal length that the disk can hold twice."""
        with self.data() as data:
            height, width, _ = data.header.pixels.frame_shape
            episode = ((data.header.max_steps or 1000) + 1) * (height * width * 3 + 64)
        return int(0.8 * shutil.disk_usage(self.work).free / (2 * episode))

    # -- training ------------------------------------------------------------------------------------------

    def tokenizer(self) -> dict[str, Any]:
        """The tokenizer."""
        from gpu_speed import peak_memory_gb

        from worldmodel.train import train_tokenizer

        progress, loop = TrainingProgress(self.run), self.config.train_tokenizer
        minutes = self.run.once("tokenizer_minutes", lambda: self.seconds("tokenizer") / 60)
        with self.data() as data:
            checkpoint = train_tokenizer(
                data, self.work / "tokenizer", self.config, minutes=minutes, device=self.device, progress=progress
            )
        frames = None if progress.rate is None else progress.rate * loop.batch_size * loop.clip_length
        return {
            "report": checkpoint.report,
            "config": asdict(checkpoint.tokenizer.config),
            "parameters": _num_parameters(checkpoint.tokenizer),
            "steps": progress.num_steps,
            "steps_per_second": progress.rate,
            "train_frames_per_second": frames,
            "gpu_memory_gb": peak_memory_gb(self.runtime.device),
        }

    def prior(self) -> dict[str, Any]:
        """The prior of the tokenizer's codes, and so the world."""
        minutes = self.run.once("prior_minutes", lambda: self.seconds("prior") / 60)
        return self._prior(self.config, self.world_path, minutes)

    def flat(self) -> dict[str, Any]:
        """The flat prior on the same codes, in the time that is left."""
        reserved = AFTER_FLAT * self.minutes * self.sizes.scale
        seconds = max(1.0, min(self.sizes.flat_seconds, self.run.seconds_left - reserved))
        minutes = self.run.once("flat_minutes", lambda: seconds / 60)
        return self._prior(self.flat_config, self.flat_path, minutes)

    def _prior(self, config: Any, out: Path, minutes: float) -> dict[str, Any]:
        from gpu_speed import peak_memory_gb

        from worldmodel.train import train_prior
        from worldmodel.train.training_loops import clip_sampler

        progress, loop = TrainingProgress(self.run), config.train_prior
        with self.data() as data:
            tokenizer = self.work / "tokenizer"
            world = train_prior(tokenizer, data, out, config, minutes=minutes, device=self.device, progress=progress)
            # the last frame of a clip is trained on, and all frames of a clip that begins its episode
            long = data.lengths[data.episodes_of("train")] + 1 >= loop.clip_length
            clips = clip_sampler(data, loop, config.seed).num_clips
            frames = 1 + (loop.clip_length - 1) * long.sum() / clips
        codes = world.prior.grid[0] * world.prior.grid[1] * loop.batch_size
        return {
            "report": world.report,
            "config": asdict(world.prior.config),
            "parameters": _num_parameters(world.prior),
            "steps": progress.num_steps,
            "steps_per_second": progress.rate,
            "trained_codes_per_second": None if progress.rate is None else float(progress.rate * codes * frames),
            "gpu_memory_gb": peak_memory_gb(self.runtime.device),
            "read_codes_per_second": None if progress.rate is None else progress.rate * codes * loop.clip_length,
        }

    # -- evaluation -------------------------------------------------------------------------------------------

    def evaluate(self) -> dict[str, Any]:
        """Every metric of the world."""
        return self._evaluate(self.world_path, ())

    def evaluate_flat(self) -> dict[str, Any]:
        """Likelihood of the same clips under the flat prior."""
        return self._evaluate(self.flat_path, ("nats", "bits", "control_gap"))

    def _evaluate(self, path: Path, metrics: tuple[str, ...]) -> dict[str, Any]:
        from worldmodel.cli.eval_world import policies_of, rules_of
        from worldmodel.metrics import EvaluationSettings, evaluate, table

        world = self.world(path)
        with self.data() as data:
            settings = EvaluationSettings(metrics=metrics, **dict(self.sizes.evaluation))
            result = evaluate(world, data, policies_of(data), settings, rules=rules_of(world.spec.env))
        print(table(result), flush=True)
        return result

    def policy(self) -> dict[str, Any]:
        """PPO trained in the dream only."""
        return self.train_policy(self.sizes.learner, self.world_path)

    def train_policy(self, learner: Any, world: Path | None) -> dict[str, Any]:
        """Train a policy for its share of the minutes.

        Args:
            learner: the settings, a `LearnerConfig`; its minutes are replaced.
            world: trains in the dreams of this world; None in the real game.
        """
        from worldmodel.collect.collect_config import TrainPolicy
        from worldmodel.collect.env_options import EnvOptions
        from worldmodel.collect.policy_training import train_policy

        minutes = self.run.once("policy_minutes", lambda: self.seconds("policy") / 60)
        learner, out = replace(learner, minutes=minutes), self.work / "policy"
        options = EnvOptions() if world is not None else EnvOptions(**dict(self.sizes.env_kwargs))
        path = train_policy(
            TrainPolicy(
                out, self.sizes.env, 0, options, learner=learner, world=world, test_episodes=0, device=self.device
            )
        )
        shutil.copyfile(path, self.run.out / "policy.zip")
        result = json.loads((out / "policy.json").read_text())["result"]
        return {
            **result,
            "learner": asdict(learner),
            "decisions_per_second": result["decisions"] / result["minutes"] / 60,
        }

    def test(self) -> dict[str, Any]:
        """That policy in the real game, compared with scripted policies on the same seeds."""
        return self.compare("dreamer", ("random", "periodic"))

    def compare(self, label: str, baselines: tuple[str, ...]) -> dict[str, Any]:
        """The policy in the real game.

        Args:
            label: of the policy in the table.
            baselines: policies that play the same seeds.
        """
        from worldmodel import envs
        from worldmodel.collect.policy_evaluation import evaluate, format_table
        from worldmodel.collect.policy_specs import parse_policy

        with self.data() as data:
            space = data.header.action_space
        defaults = envs.policy_defaults(self.sizes.env)
        specs = {label: parse_policy(str(self.work / "policy"), space, defaults)}
        specs |= {name: parse_policy(name, space, defaults) for name in baselines}
        count = self.sizes.test_episodes
        rows = evaluate(specs, self.sizes.env, dict(self.sizes.env_kwargs), count, TEST_SEED, self.workers)
        print(format_table(rows), flush=True)
        return {"env": self.sizes.env, "first_seed": TEST_SEED, "rows": rows}

    # -- speed ---------------------------------------------------------------------------------------------

    def speed(self) -> dict[str, Any]:
        """Whole steps per second of the world's dreams; frames per second of its tokenizer."""
        import torch
        from gpu_speed import tokenizer_speed

        world, loop = self.world(), self.config.train_tokenizer
        with self.data() as data:
            frames = torch.from_numpy(data.frames(0))
        return {
            "dream": self._dream_speed(world, self.sizes.rows),
            "tokenizer": tokenizer_speed(world.tokenizer, frames, loop, self.runtime, self.sizes.timed),
        }

    def speed_flat(self) -> dict[str, Any]:
        """Whole steps per second of the flat prior's dreams."""
        return {"dream": self._dream_speed(self.world(self.flat_path), self.sizes.flat_rows)}

    def _dream_speed(self, world: Any, batches: tuple[int, ...]) -> list[dict[str, Any]]:
        from gpu_speed import dream_speed

        return dream_speed(world, batches, self.runtime.dtype, self.sizes.timed, self.run.print)

    # -- files ------------------------------------------------------------------------------------------

    def world_files(self) -> dict[str, Any]:
        """The world in small files."""
        from gpu_world_files import pack

        return {"files": {path.name: path.stat().st_size for path in pack(self.world(), self.run.out)}}

    def pictures(self) -> dict[str, Any]:
        """Test clips: recorded, reconstructed from codes, dreamed."""
        from gpu_pictures import draw_clips

        with self.data() as data:
            return draw_clips(self.world(), data, self.run.out)

    def curves(self) -> dict[str, Any]:
        """Curves of the trainings."""
        from gpu_pictures import plot_curves

        return plot_curves(self.work, self.world_path, self.flat_path, self.run.out, self.policy_title)


def _num_parameters(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
