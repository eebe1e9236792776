"""The stages of the GPU's run: each does its work in the run's folder and returns its figures, JSON.

Shapes: N rows (dreams side by side), L frames a clip.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gpu_books import Books, Pace

from worldmodel.collect.collect_config import LEARNER_PRESETS, LearnerConfig

MIX = {"random": 0.3, "sticky": 0.25}  # periodic play takes the other episodes
TEST_SEED = 1_000_000  # as `eval policy`: nothing else uses these
SHARES = {"record": 0.09, "tokenizer": 0.13, "prior": 0.29, "policy": 0.17}  # of the minutes; flat takes the rest
AFTER_FLAT = 0.07  # share of the minutes kept for the flat prior's codes, judgement and speed
STRIP, CLIPS = 12, 3  # frames and clips of the strip


@dataclass(frozen=True)
class Sizes:
    """What differs between the run and its rehearsal.

    Attributes:
        env, env_kwargs: what is recorded.
        preset, flat: presets of the two worlds.
        scale: seconds that a "minute" of the command line has.
        first: episodes a process records while the rate is measured.
        most: episodes at most.
        judge: fields of `worldmodel.metrics.EvaluationSettings`.
        learner: PPO's settings in the dream.
        test_episodes: episodes outside the dream, each policy.
        rows: N of the dreams that are timed.
        flat_rows: the same for the flat prior, whose cache is large.
        timed: seconds that each speed is measured for.
        flat_seconds: of training of the flat prior at most.
    """

    env: str = "doom/take-cover"
    env_kwargs: tuple[tuple[str, Any], ...] = ()
    preset: str = "doom-take-cover-gpu"
    flat: str = "doom-take-cover-gpu-flat"
    scale: float = 60.0
    first: int = 12
    most: int = 20_000
    judge: tuple[tuple[str, Any], ...] = (("rows", 128),)
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
    most=60,
    judge=(("clips", 8), ("ahead", 3), ("horizon", 8), ("rows", 4)),
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


@dataclass
class Run:
    """One run: its books, its sizes, where it computes."""

    books: Books
    sizes: Sizes
    minutes: float
    device: str
    workers: int

    def __post_init__(self) -> None:
        from worldmodel.common.runtime import choose_runtime
        from worldmodel.train.presets import PRESETS

        self.work = self.books.work
        self.runtime = choose_runtime(self.device)
        self.config, self.flat_config = PRESETS[self.sizes.preset], PRESETS[self.sizes.flat]
        self.files = [self.work / "first.h5", self.work / "rest.h5"]
        self.world_path, self.flat_path = self.work / "world", self.work / "flat"

    def seconds(self, stage: str) -> float:
        """A stage's share of the budget."""
        return SHARES[stage] * self.minutes * self.sizes.scale

    def data(self) -> Any:
        """The recordings; the second file is missing where the first took all the time."""
        from worldmodel.data import Dataset

        return Dataset([path for path in self.files if path.exists()])

    def world(self, path: Path | None = None) -> Any:
        """The learned world, on the device."""
        from worldmodel.world.world_model import WorldModel

        return WorldModel.from_pretrained(path or self.world_path, self.runtime.device)

    # -- recording -----------------------------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """A small file to learn the rate from, then one that fills the time."""
        budget, begun = self.seconds("record"), time.monotonic()
        first = min(self.workers * self.sizes.first, self.sizes.most)
        told = self._record(self.files[0], 0, first)
        if told is not None:
            beginning, rate = told
            spent = time.monotonic() - begun
            sealing = max(0.0, spent - beginning - first / rate) / first  # seconds an episode
            left = budget - spent - beginning
            count = min(int(left / (1 / rate + sealing)), self.sizes.most - first, self._fitting())
            self.books.once("episodes", lambda: max(0, count))
        count = self.books.once("episodes", lambda: first)  # killed in between: as many again
        if count:
            self._record(self.files[1], 1, count)
        with self.data() as data:
            steps, names = data.num_steps, data.policies
            return {
                "episodes": data.num_episodes,
                "steps": steps,
                "bytes": sum(path.stat().st_size for path in self.files if path.exists()),
                "steps_per_second": self.books.plan.get("steps_per_second"),
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
        """Record a file; seconds until its first episode and episodes a second from then on, if it was not there."""
        from worldmodel import envs
        from worldmodel.collect.policy_specs import mix_policies, parse_policy
        from worldmodel.collect.recorder import RecordingPlan, make_header, record_plan

        kwargs = dict(self.sizes.env_kwargs)
        env = envs.make(self.sizes.env, **kwargs)
        meta, process_manager, defaults = env.meta, env.process_manager, envs.policy_defaults(self.sizes.env)
        env.close()
        others = [replace(parse_policy(name, meta.action_space, defaults), share=share) for name, share in MIX.items()]
        policies = mix_policies(parse_policy("periodic", meta.action_space, defaults), others)
        header = make_header(meta, policies, seed, episodes, (0, 1))
        begun, times, steps = time.monotonic(), [], 0

        def told(index: int, length: int) -> None:
            nonlocal steps
            times.append(time.monotonic())
            steps += length
            if len(times) % 500 == 0:
                self.books.say(f"  {len(times)} of {episodes} episodes, {steps / (times[-1] - times[0]):.0f} steps/s")

        plan = RecordingPlan(path, header, policies, self.sizes.env, kwargs, process_manager)
        record_plan(plan, self.workers, progress=False, on_episode=told)
        if len(times) < 2:
            return None
        most = times[: max(2, int(0.8 * len(times)))]  # at the end some processes have nothing left to do
        seconds = max(most[-1] - most[0], 1e-3)
        self.books.plan["steps_per_second"] = round(steps / max(times[-1] - times[0], 1e-3))
        return times[0] - begun, (len(most) - 1) / seconds

    def _fitting(self) -> int:
        """Episodes that the disk holds twice, were all as long as can be."""
        with self.data() as data:
            height, width, _ = data.header.pixels.frame_shape
            episode = ((data.header.max_steps or 1000) + 1) * (height * width * 3 + 64)
        return int(0.8 * shutil.disk_usage(self.work).free / (2 * episode))

    # -- learning ------------------------------------------------------------------------------------------

    def tokenizer(self) -> dict[str, Any]:
        """Frames to codes."""
        from worldmodel.train import train_tokenizer

        pace, loop = Pace(self.books), self.config.train_tokenizer
        minutes = self.books.once("tokenizer_minutes", lambda: self.seconds("tokenizer") / 60)
        with self.data() as data:
            made = train_tokenizer(
                data, self.work / "tokenizer", self.config, minutes=minutes, device=self.device, progress=pace
            )
        frames = None if pace.rate is None else pace.rate * loop.batch_size * loop.clip_length
        return {
            "report": made.report,
            "config": asdict(made.tokenizer.config),
            "parameters": _size(made.tokenizer),
            "steps": pace.last[1],
            "steps_per_second": pace.rate,
            "train_frames_per_second": frames,
            "gpu_memory_gb": self._peak(),
        }

    def prior(self) -> dict[str, Any]:
        """Codes to the next codes: the world."""
        minutes = self.books.once("prior_minutes", lambda: self.seconds("prior") / 60)
        return self._prior(self.config, self.world_path, minutes)

    def flat(self) -> dict[str, Any]:
        """The same with the flat prior, for the time that is left."""
        kept = AFTER_FLAT * self.minutes * self.sizes.scale
        most = self.sizes.flat_seconds
        minutes = self.books.once("flat_minutes", lambda: max(1.0, min(most, self.books.left - kept)) / 60)
        return self._prior(self.flat_config, self.flat_path, minutes)

    def _prior(self, config: Any, out: Path, minutes: float) -> dict[str, Any]:
        from worldmodel.train import train_prior
        from worldmodel.train.training_loops import sampler_of

        pace, loop = Pace(self.books), config.train_prior
        with self.data() as data:
            tokenizer = self.work / "tokenizer"
            world = train_prior(tokenizer, data, out, config, minutes=minutes, device=self.device, progress=pace)
            # a clip's last frame is learned, and all of one that begins its episode
            long = data.lengths[data.episodes_of("train")] + 1 >= loop.clip_length
            clips = sampler_of(data, loop, config.seed).num_clips
            learned = 1 + (loop.clip_length - 1) * long.sum() / clips
        codes = world.prior.grid[0] * world.prior.grid[1] * loop.batch_size
        return {
            "report": world.report,
            "config": asdict(world.prior.config),
            "parameters": _size(world.prior),
            "steps": pace.last[1],
            "steps_per_second": pace.rate,
            "learned_codes_per_second": None if pace.rate is None else float(pace.rate * codes * learned),
            "gpu_memory_gb": self._peak(),
            "seen_codes_per_second": None if pace.rate is None else pace.rate * codes * loop.clip_length,
        }

    # -- judging -------------------------------------------------------------------------------------------

    def judge(self) -> dict[str, Any]:
        """Every metric of the world."""
        return self._judge(self.world_path, ())

    def judge_flat(self) -> dict[str, Any]:
        """Likelihood of the same clips under the flat prior."""
        return self._judge(self.flat_path, ("nats", "bits", "control_gap"))

    def _judge(self, path: Path, metrics: tuple[str, ...]) -> dict[str, Any]:
        from worldmodel.cli.eval_world import policies_of
        from worldmodel.metrics import EvaluationSettings, evaluate, table

        with self.data() as data:
            settings = EvaluationSettings(metrics=metrics, **dict(self.sizes.judge))
            result = evaluate(self.world(path), data, policies_of(data), settings)
        print(table(result), flush=True)
        return result

    def policy(self) -> dict[str, Any]:
        """PPO in the dream alone."""
        from worldmodel.collect.collect_config import TrainPolicy
        from worldmodel.collect.policy_training import train_policy

        minutes = self.books.once("policy_minutes", lambda: self.seconds("policy") / 60)
        learner = replace(self.sizes.learner, minutes=minutes)
        out = self.work / "policy"
        path = train_policy(
            TrainPolicy(
                out, self.sizes.env, 0, learner=learner, world=self.world_path, test_episodes=0, device=self.device
            )
        )
        shutil.copyfile(path, self.books.out / "policy.zip")
        result = json.loads((out / "policy.json").read_text())["result"]
        return {
            **result,
            "learner": asdict(learner),
            "decisions_per_second": result["decisions"] / result["minutes"] / 60,
        }

    def test(self) -> dict[str, Any]:
        """That policy in the real game, beside scripted play on the same seeds."""
        from worldmodel import envs
        from worldmodel.collect.policy_evaluation import evaluate, format_table
        from worldmodel.collect.policy_specs import parse_policy

        with self.data() as data:
            space = data.header.action_space
        defaults = envs.policy_defaults(self.sizes.env)
        specs = {"dreamer": parse_policy(str(self.work / "policy"), space, defaults)}
        specs |= {name: parse_policy(name, space, defaults) for name in ("random", "periodic")}
        count = self.sizes.test_episodes
        rows = evaluate(specs, self.sizes.env, dict(self.sizes.env_kwargs), count, TEST_SEED, self.workers)
        print(format_table(rows), flush=True)
        return {"env": self.sizes.env, "first_seed": TEST_SEED, "rows": rows}

    # -- speed ---------------------------------------------------------------------------------------------

    def speed(self) -> dict[str, Any]:
        """Whole steps a second of the world's dreams; frames a second of its tokenizer."""
        world = self.world()
        return {"dream": self._dream_speed(world, self.sizes.rows), "tokenizer": self._tokenizer_speed(world.tokenizer)}

    def speed_flat(self) -> dict[str, Any]:
        """Whole steps a second of the flat prior's dreams."""
        return {"dream": self._dream_speed(self.world(self.flat_path), self.sizes.flat_rows)}

    def _dream_speed(self, world: Any, batches: tuple[int, ...]) -> list[dict[str, Any]]:
        import torch

        from worldmodel.dream import Simulator

        choices, rows = world.prior.action_space.n, []
        for dtype in dict.fromkeys((self.runtime.dtype, torch.float32)):
            for batch in batches:
                row: dict[str, Any] = {"rows": batch, "dtype": str(dtype).removeprefix("torch.")}
                try:
                    simulator = Simulator(world, batch, starts="any", dtype=dtype)
                    simulator.reset()
                    actions = torch.randint(choices, (batch,), device=world.device)
                    seconds = self._timed(lambda: simulator.step(actions))  # noqa: B023 (called at once)
                    row |= {"step_ms": 1000 * seconds, "steps_per_second": batch / seconds}
                    row["gpu_memory_gb"] = self._peak()
                except torch.OutOfMemoryError as error:
                    row["error"] = str(error).splitlines()[0]
                rows.append(row)
                self.books.say(f"  dream: {row}")
        return rows

    def _tokenizer_speed(self, tokenizer: Any) -> dict[str, Any]:
        import torch

        loop = self.config.train_tokenizer
        with self.data() as data:
            frames = torch.from_numpy(data.frames(0))
        frames = frames[: len(frames) // loop.clip_length * loop.clip_length].to(self.runtime.device)
        frames = frames.unflatten(0, (-1, loop.clip_length))
        frames = frames[torch.arange(loop.batch_size, device=frames.device) % len(frames)]  # (B, L, H, W, 3)
        valid = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
        codes, count = tokenizer.encode(frames), frames.shape[0] * frames.shape[1]
        optimiser = torch.optim.AdamW(tokenizer.parameters(), lr=0.0)

        def learn() -> None:
            optimiser.zero_grad(set_to_none=True)
            with self.runtime.autocast():
                loss = tokenizer.loss(frames, valid)["loss"]
            loss.backward()
            optimiser.step()

        found = {}
        for name, work in (
            ("encode", lambda: tokenizer.encode(frames)),
            ("decode", lambda: tokenizer.decode(codes)),
            ("train", learn),
        ):
            tokenizer.train(name == "train")
            found[f"{name}_frames_per_second"] = count / self._timed(work)
        return {**found, "frames": count, "train_dtype": str(self.runtime.dtype)}

    def _timed(self, work: Callable[[], Any]) -> float:
        """Seconds that a call takes, the mean of as many as fit, after some that are not counted."""
        for _ in range(3):
            work()
        self._wait()
        begun, calls = time.perf_counter(), 0
        while time.perf_counter() - begun < self.sizes.timed or calls < 3:
            work()
            calls += 1
            if calls % 8 == 0:
                self._wait()
        self._wait()
        return (time.perf_counter() - begun) / calls

    def _peak(self) -> float | None:
        """Most memory of the device in use since this was last asked."""
        import torch

        if self.runtime.device.type != "cuda":
            return None
        most = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
        return round(most, 2)

    def _wait(self) -> None:
        import torch

        if self.runtime.device.type == "cuda":
            torch.cuda.synchronize()

    # -- what travels --------------------------------------------------------------------------------------

    def parcel(self) -> dict[str, Any]:
        """The world's weights."""
        from gpu_parcel import pack

        return {"files": {path.name: path.stat().st_size for path in pack(self.world(), self.books.out)}}

    def pictures(self) -> dict[str, Any]:
        """Test clips, drawn by a seed: real, through the codes, dreamed."""
        from worldmodel.cli import report
        from worldmodel.common.files import atomic_path
        from worldmodel.dream.dream_clips import compare_clip

        world, rng = self.world(), np.random.default_rng(0)
        with self.data() as data:
            test = data.episodes_of("test")
            frames = min(4 * STRIP, int(np.sort(data.lengths[test])[-min(CLIPS, len(test))]))
            numbers = rng.choice(test[data.lengths[test] >= frames], min(CLIPS, len(test)), replace=False)
            moments = [int(rng.integers(0, data.lengths[n] - frames + 1)) for n in numbers]
            clips = [compare_clip(world, data, int(n), m, frames) for n, m in zip(numbers, moments, strict=True)]
        every, rows = max(1, frames // STRIP), []
        for i, clip in enumerate(clips, 1):
            shown = {f"real {i}": clip.real, "through\nthe codes": clip.reconstructed, "dreamed": clip.dreamed}
            rows += [(label, part[::every][:STRIP]) for label, part in shown.items()]
        with atomic_path(self.books.out / "strip.png") as temporary:
            temporary.write_bytes(report.strips(rows))
        videos = [np.concatenate([clip.real, clip.dreamed], axis=1) for clip in clips]  # real above dreamed
        report.side_by_side_gif(self.books.out / "dream.gif", videos)
        places = [{"episode": int(n), "frame": m} for n, m in zip(numbers, moments, strict=True)]
        return {"clips": places, "frames": frames, "every": every}

    def curves(self) -> dict[str, Any]:
        """What was learned when."""
        from worldmodel.cli import report
        from worldmodel.common.files import atomic_path

        panels: list[Any] = []
        for title, path, x, y in (
            ("tokenizer: loss", self.work / "tokenizer/training/tokenizer.jsonl", "step", "reconstruction"),
            ("prior: nats a code", self.world_path / "training/prior.jsonl", "step", "codes"),
            ("flat prior: nats a code", self.flat_path / "training/prior.jsonl", "step", "codes"),
            ("return in the dream", self.work / "policy/curve.jsonl", "minutes", "return_mean"),
        ):
            rows = report.read_jsonl(path) if path.exists() else []
            lines = []
            for name in (y, f"val/{y}"):
                found = [(row[x], row[name]) for row in rows if name in row]
                if found:
                    lines.append((name, *map(list, zip(*found, strict=True))))
            if lines:
                panels.append((x, title, lines))
        with atomic_path(self.books.out / "curves.png") as temporary:
            temporary.write_bytes(report.curves(panels))
        return {"panels": [title for _, title, _ in panels]}


def _size(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
