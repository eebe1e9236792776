"""Training a policy with Stable-Baselines3: processes step a real world, or one batch a dream; one thread learns.

Stopped at any moment, the same command continues from the last checkpoint. Continues, not repeats: neither SB3 nor
ViZDoom can be put back exactly where they were.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from worldmodel.collect.collect_config import LearnerConfig, TrainPolicy
from worldmodel.collect.learning_envs import check_world, dreams, real
from worldmodel.collect.policy_evaluation import table
from worldmodel.common.files import atomic_path
from worldmodel.common.memory import keep_freed_memory
from worldmodel.common.run_info import check_same_run, remove_run

TEST_SEED = 1_000_000  # as `eval policy`: collecting and training never use these


def train_policy(config: TrainPolicy) -> Path:
    """Train, or continue, or say that it is done.

    Args:
        config: what to train and where to.

    Returns:
        The path of policy.zip; beside it policy.json, curve.jsonl, run.json and tensorboard/.

    Raises:
        UserError: another run stands at `config.out`, or the algorithm does not fit the action space.
    """
    out, run = config.out, config.out / "run.json"
    if config.world is not None:
        check_world(config.world, out)
    if config.force:
        remove_run(out)
    check_same_run(run, out, config)
    final, tested = out / "policy.zip", out / "test.json"
    if not final.exists():
        _train(config)
    result = {"policy": str(final), **json.loads((out / "policy.json").read_text())["result"]}
    if config.world is not None and config.test_episodes and not tested.exists():
        with atomic_path(tested) as temporary:
            temporary.write_text(json.dumps({"env": config.env, "rows": _test(config)}, indent=1))
    if tested.exists():
        result["test"] = json.loads(tested.read_text())["rows"]
    if config.json:
        print(json.dumps(result))
        return final
    print(
        f"{final}: {result['decisions']} decisions, {result['minutes']:.1f} min, last returns "
        f"{result['return_mean']:.1f} over {result['episodes']} episodes."
    )
    if "test" in result:
        print(f"Outside the dream, in {config.env}:\n{table(result['test'])}")
    return final


def _algorithm(learner: LearnerConfig, venv: Any, seed: int, out: Path, device: str) -> Any:
    """A fresh SB3 model."""
    import stable_baselines3 as sb3

    from worldmodel.collect.learner_view import SmallEncoder

    common: dict[str, Any] = {
        "learning_rate": learner.learning_rate,
        "gamma": learner.gamma,
        "seed": seed,
        "device": device,
        "tensorboard_log": str(out / "tensorboard") if find_spec("tensorboard") else None,
        "policy_kwargs": {
            "features_extractor_class": SmallEncoder,
            "features_extractor_kwargs": {"width": learner.width},
        },
    }
    if learner.algo == "ppo":
        size = min(learner.batch_size, learner.rollout_steps * learner.num_envs)
        return sb3.PPO(
            "CnnPolicy",
            venv,
            n_steps=learner.rollout_steps,
            batch_size=size,
            n_epochs=learner.epochs,
            ent_coef=learner.entropy,
            **common,
        )
    if learner.algo == "a2c":
        return sb3.A2C("CnnPolicy", venv, n_steps=learner.rollout_steps, ent_coef=learner.entropy, **common)
    off_policy: dict[str, Any] = {
        "buffer_size": learner.buffer_size,
        "batch_size": learner.batch_size,
        "learning_starts": 1000,
    }
    if learner.algo == "dqn":
        return sb3.DQN("CnnPolicy", venv, **off_policy, **common)
    return sb3.SAC("CnnPolicy", venv, train_freq=1, gradient_steps=1, **off_policy, **common)


def _callback(total: int, learner: LearnerConfig, out: Path, started: dict[str, float]) -> Any:
    """Progress, the curve, checkpoints and the clock."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Watch(BaseCallback):
        begun = saved = written = time.monotonic()

        def _on_training_start(self) -> None:
            known = None if learner.minutes is not None else total  # the clock may end it first: no guess of the rest
            self.bar = tqdm(total=known, initial=self.num_timesteps, unit="decision", desc=f"training {learner.algo}")
            self.begun = self.saved = self.written = time.monotonic()

        def minutes(self) -> float:
            return started["minutes"] + (time.monotonic() - self.begun) / 60

        def _on_step(self) -> bool:
            self.bar.update(self.num_timesteps - self.bar.n)
            now = time.monotonic()
            if now - self.written > 5:
                self.written = now
                self.row()
            if now - self.saved > learner.checkpoint_seconds:
                self.saved = now
                save_checkpoint(self.model, out, self.minutes())
            return learner.minutes is None or self.minutes() < learner.minutes

        def row(self) -> None:
            done = list(self.model.ep_info_buffer or [])
            if done:
                mean = float(np.mean([e["r"] for e in done]))
                length = float(np.mean([e["l"] for e in done]))
                of = "" if learner.minutes is None else f"/{learner.minutes:g}"
                self.bar.set_postfix(
                    return_mean=round(mean, 2), steps=round(length, 1), minutes=f"{self.minutes():.1f}{of}"
                )
                row = {
                    "minutes": self.minutes(),
                    "decisions": self.num_timesteps,
                    "return_mean": mean,
                    "length_mean": length,
                }
                with (out / "curve.jsonl").open("a") as stream:
                    stream.write(json.dumps(row) + "\n")

        def _on_training_end(self) -> None:
            self.row()
            self.bar.close()

    return Watch()


def save_checkpoint(model: Any, out: Path, minutes: float) -> None:
    """Write checkpoint.zip whole or not at all; the minutes already spent are in its name's file beside."""
    temporary = out / "checkpoint.tmp.zip"
    model.save(temporary)
    os.replace(temporary, out / "checkpoint.zip")
    spent = out / "checkpoint.tmp.json"
    spent.write_text(json.dumps({"minutes": minutes}))
    os.replace(spent, out / "checkpoint.json")


def _train(config: TrainPolicy) -> None:
    import torch
    from stable_baselines3.common.utils import set_random_seed

    out, learner = config.out, config.learner
    with dreams(config) if config.world is not None else real(config) as venv:
        keep_freed_memory()
        # beside environments on two cores, one thread is three to six times faster
        torch.set_num_threads(1)
        set_random_seed(config.seed)
        venv.seed(config.seed)
        spent = {"minutes": 0.0}
        checkpoint = out / "checkpoint.zip"
        if checkpoint.exists():
            import stable_baselines3

            model = getattr(stable_baselines3, learner.algo.upper()).load(checkpoint, env=venv, device=config.device)
            spent = json.loads((out / "checkpoint.json").read_text())
        else:
            model = _algorithm(learner, venv, config.seed, out, config.device)
        watch = _callback(learner.decisions, learner, out, spent)
        left = learner.decisions - model.num_timesteps
        try:
            if left > 0:
                model.learn(left, callback=watch, reset_num_timesteps=False, tb_log_name="policy")
        except (KeyboardInterrupt, SystemExit):
            save_checkpoint(model, out, watch.minutes())
            raise
    _finish(model, config, watch.minutes() if left > 0 else spent["minutes"])


def _test(config: TrainPolicy) -> list[dict[str, Any]]:
    """The policy outside the dream, beside scripted play on the same seeds."""
    from worldmodel import envs
    from worldmodel.collect.policy_evaluation import evaluate
    from worldmodel.collect.policy_specs import spec_of

    kwargs = config.screen.kwargs()
    env = envs.make(config.env, **kwargs)
    space = env.meta.action_space
    env.close()
    defaults = envs.policy_defaults(config.env)
    specs = {"dreamer": spec_of(str(config.out / "policy.zip"), space, defaults)}
    for name in ("random", "periodic") if "periodic" in defaults else ("random",):
        specs[name] = spec_of(name, space, defaults)
    return evaluate(specs, config.env, kwargs, config.test_episodes, TEST_SEED, workers=2)


def _finish(model: Any, config: TrainPolicy, minutes: float) -> None:
    """Write policy.zip last: its presence says that all is done."""
    out = config.out
    done = list(model.ep_info_buffer or [])
    result = {
        "decisions": int(model.num_timesteps),
        "minutes": minutes,
        "episodes": len(done),
        "return_mean": float(np.mean([e["r"] for e in done])) if done else float("nan"),
    }
    (out / "policy.json").write_text(
        json.dumps({"env": config.env, "learner": asdict(config.learner), "result": result}, indent=1)
    )
    temporary = out / "policy.tmp.zip"
    model.save(temporary, exclude=["tensorboard_log"])
    os.replace(temporary, out / "policy.zip")
    for leftover in ("checkpoint.zip", "checkpoint.json"):
        (out / leftover).unlink(missing_ok=True)
