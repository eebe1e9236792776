"""Train a policy with Stable-Baselines3, in environment processes or in one batch of dreams.

The same command continues a stopped training from its last checkpoint. The result is not bit-identical to a training
without the stop: neither SB3 nor ViZDoom can save its complete state.
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
from worldmodel.collect.learner_envs import check_world, dream_envs, real_envs
from worldmodel.collect.policy_evaluation import format_table
from worldmodel.common.files import atomic_path
from worldmodel.common.memory import keep_freed_memory
from worldmodel.common.run_info import check_same_run, remove_run

TEST_SEED = 1_000_000  # as in `eval policy`: recording and training never use these seeds


def train_policy(config: TrainPolicy) -> Path:
    """Run `worldmodel train policy`: train, continue a stopped training, or print the result of a finished one.

    Args:
        config: the resolved config.

    Returns:
        The path of policy.zip; next to it are policy.json, curve.jsonl, run.json and tensorboard/.

    Raises:
        UserError: another run exists at `config.out`, or the algorithm does not support the action space.
    """
    out, run = config.out, config.out / "run.json"
    if config.world is not None:
        check_world(config.world, out)
    if config.force:
        remove_run(out)
    check_same_run(run, out, config)
    policy, test = out / "policy.zip", out / "test.json"
    if not policy.exists():
        _train(config)
    result = {"policy": str(policy), **json.loads((out / "policy.json").read_text())["result"]}
    if config.world is not None and config.test_episodes and not test.exists():
        with atomic_path(test) as temporary:
            temporary.write_text(json.dumps({"env": config.env, "rows": _test(config)}, indent=1))
    if test.exists():
        result["test"] = json.loads(test.read_text())["rows"]
    if config.json:
        print(json.dumps(result))
        return policy
    print(
        f"{policy}: {result['decisions']} decisions, {result['minutes']:.1f} min, last returns "
        f"{result['return_mean']:.1f} over {result['episodes']} episodes."
    )
    if "test" in result:
        print(f"Test in the environment {config.env}:\n{format_table(result['test'])}")
    return policy


def _algorithm(learner: LearnerConfig, venv: Any, seed: int, out: Path, device: str) -> Any:
    """A new SB3 model."""
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


def _callback(total: int, learner: LearnerConfig, out: Path, spent: dict[str, float]) -> Any:
    """The SB3 callback: progress bar, curve.jsonl, checkpoints, time limit."""
    from stable_baselines3.common.callbacks import BaseCallback

    class TrainingCallback(BaseCallback):
        started_at = saved_at = logged_at = time.monotonic()

        def _on_training_start(self) -> None:
            known = None if learner.minutes is not None else total  # the time limit may end it first: show no estimate
            self.bar = tqdm(total=known, initial=self.num_timesteps, unit="decision", desc=f"training {learner.algo}")
            self.started_at = self.saved_at = self.logged_at = time.monotonic()

        def minutes(self) -> float:
            return spent["minutes"] + (time.monotonic() - self.started_at) / 60

        def _on_step(self) -> bool:
            self.bar.update(self.num_timesteps - self.bar.n)
            now = time.monotonic()
            if now - self.logged_at > 5:
                self.logged_at = now
                self.log_row()
            if now - self.saved_at > learner.checkpoint_seconds:
                self.saved_at = now
                save_checkpoint(self.model, out, self.minutes())
            return learner.minutes is None or self.minutes() < learner.minutes

        def log_row(self) -> None:
            finished = list(self.model.ep_info_buffer or [])
            if finished:
                mean = float(np.mean([e["r"] for e in finished]))
                length = float(np.mean([e["l"] for e in finished]))
                limit = "" if learner.minutes is None else f"/{learner.minutes:g}"
                self.bar.set_postfix(
                    return_mean=round(mean, 2), steps=round(length, 1), minutes=f"{self.minutes():.1f}{limit}"
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
            self.log_row()
            self.bar.close()

    return TrainingCallback()


def save_checkpoint(model: Any, out: Path, minutes: float) -> None:
    """Write checkpoint.zip atomically, and the training time so far to checkpoint.json."""
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
    with dream_envs(config) if config.world is not None else real_envs(config) as venv:
        keep_freed_memory()
        # with environment processes on two cores, one torch thread is three to six times faster
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
        callback = _callback(learner.decisions, learner, out, spent)
        remaining = learner.decisions - model.num_timesteps
        try:
            if remaining > 0:
                model.learn(remaining, callback=callback, reset_num_timesteps=False, tb_log_name="policy")
        except (KeyboardInterrupt, SystemExit):
            save_checkpoint(model, out, callback.minutes())
            raise
    _finish(model, config, callback.minutes() if remaining > 0 else spent["minutes"])


def _test(config: TrainPolicy) -> list[dict[str, Any]]:
    """Evaluate the policy in the environment, with scripted policies as baselines on the same seeds."""
    from worldmodel import envs
    from worldmodel.collect.policy_evaluation import evaluate
    from worldmodel.collect.policy_specs import parse_policy

    kwargs = config.env_options.kwargs()
    env = envs.make(config.env, **kwargs)
    space = env.meta.action_space
    env.close()
    defaults = envs.policy_defaults(config.env)
    specs = {"dreamer": parse_policy(str(config.out / "policy.zip"), space, defaults)}
    for name in ("random", "periodic") if "periodic" in defaults else ("random",):
        specs[name] = parse_policy(name, space, defaults)
    return evaluate(specs, config.env, kwargs, config.test_episodes, TEST_SEED, workers=2)


def _finish(model: Any, config: TrainPolicy, minutes: float) -> None:
    """Write the results; policy.zip last, since its presence marks a finished training."""
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
