"""Train a policy with Stable-Baselines3, in environment processes or in one batch of dreams.

The same command continues a stopped training from its last checkpoint. The result is not bit-identical to a training
without the stop: neither SB3 nor ViZDoom can save its complete state.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.collect.collect_config import TrainPolicy
from worldmodel.collect.disk_errors import disk_errors_as_sentence
from worldmodel.collect.learner_envs import check_world, dream_envs, real_envs
from worldmodel.collect.leftovers import remove_leftovers
from worldmodel.collect.policy_evaluation import format_table
from worldmodel.common.errors import UserError
from worldmodel.common.files import atomic_path, expand_path, write_json_atomic
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
    world = None if config.world is None else expand_path(config.world)
    init_from = None if config.init_from is None else expand_path(config.init_from)
    config = replace(config, out=expand_path(config.out), world=world, init_from=init_from)
    config = replace(
        config,
        more_worlds=tuple(expand_path(path) for path in config.more_worlds),
        starts_from=tuple(expand_path(path) for path in config.starts_from),
    )
    out, run = config.out, config.out / "run.json"
    for directory in () if config.world is None else (config.world, *config.more_worlds):
        check_world(directory, out)
    if config.force:
        remove_run(out)
    check_same_run(run, out, config)
    policy, test = out / "policy.zip", out / "test.json"
    if not policy.exists():
        remove_leftovers(out)
        with disk_errors_as_sentence(out):
            _train(config)
    result = {"policy": str(policy), **json.loads((out / "policy.json").read_text())["result"]}
    if config.world is not None and config.test_episodes and not test.exists():
        write_json_atomic(test, {"env": config.env_name, "rows": _test(config)})
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
        print(f"Test in the environment {config.env_name}:\n{format_table(result['test'])}")
    return policy


def _train(config: TrainPolicy) -> None:
    from stable_baselines3.common.utils import set_random_seed

    from worldmodel.collect.global_state import preserved_global_state
    from worldmodel.collect.learner_model import normalized_rewards, save_checkpoint
    from worldmodel.collect.policy_validation import Validator
    from worldmodel.collect.training_callback import TrainingCallback

    out, learner = config.out, config.learner
    _check_device(config.device)
    environments = dream_envs(config) if config.world is not None else real_envs(config)
    with preserved_global_state(learner.threads), environments as venv:
        keep_freed_memory()
        set_random_seed(config.seed)
        venv.seed(config.seed)
        validator = None if config.eval_every is None else Validator(config, venv)
        model, minutes = _model(config, normalized_rewards(venv, learner))
        callback = TrainingCallback(learner, out, minutes, validator)
        remaining = learner.decisions - model.num_timesteps
        try:
            if remaining > 0:
                model.learn(remaining, callback=callback, reset_num_timesteps=False, tb_log_name="policy")
                minutes = callback.minutes()
        except (KeyboardInterrupt, SystemExit):
            save_checkpoint(model, out, callback.minutes())
            raise
        finally:
            callback.close()
        if validator is not None and validator.best is None:  # stopped after its last decision
            validator.evaluate(model, minutes)
        _finish(model, config, minutes)


def _check_device(device: str) -> None:
    """Refuse a CUDA device that does not exist: Stable-Baselines3 would take the CPU without a word."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device={device!r}: torch finds no CUDA device here; use --device cpu.")


def _model(config: TrainPolicy, venv: Any) -> tuple[Any, float]:
    """The SB3 model, new or from the checkpoint, and the minutes of training so far."""
    from worldmodel.collect.learner_model import load_checkpoint, load_initial_weights, new_model

    if (config.out / "checkpoint.zip").exists():
        return load_checkpoint(config, venv)
    model = new_model(config.learner, venv, config.seed, config.out, config.device)
    if config.init_from is not None:
        try:
            load_initial_weights(model, config.init_from, config.learner.algo)
        except UserError:
            (config.out / "run.json").unlink(missing_ok=True)  # the same --out can be used with other settings
            raise
    return model, 0.0


def _test(config: TrainPolicy) -> list[dict[str, Any]]:
    """Evaluate the policy in the environment, with scripted policies as baselines on the same seeds."""
    from worldmodel import envs
    from worldmodel.collect.policy_evaluation import evaluate
    from worldmodel.collect.policy_specs import parse_policy

    name, kwargs = config.choose_env()
    env = envs.make(name, **kwargs)
    space = env.meta.action_space
    env.close()
    defaults = envs.policy_defaults(name)
    specs = {"dreamer": parse_policy(str(config.out / "policy.zip"), space, defaults)}
    for baseline in ("random", "periodic") if "periodic" in defaults else ("random",):
        specs[baseline] = parse_policy(baseline, space, defaults)
    workers = 2 if config.test_episodes > 10 else 1  # a process takes longer to start than a few episodes
    return evaluate(specs, name, kwargs, config.test_episodes, TEST_SEED, workers)


def _finish(model: Any, config: TrainPolicy, minutes: float) -> None:
    """Write the results; policy.zip last, since its presence marks a finished training."""
    from worldmodel.collect.learner_model import save_model

    out = config.out
    finished = list(model.ep_info_buffer or [])
    result = {
        "decisions": int(model.num_timesteps),
        "minutes": minutes,
        "episodes": len(finished),
        "return_mean": float(np.mean([episode["r"] for episode in finished])) if finished else float("nan"),
    }
    settings = {"env": config.env_name, "learner": asdict(config.learner), "result": result}
    if config.init_from is not None:
        run = json.loads((out / "run.json").read_text())
        settings["init_from"] = {"path": str(config.init_from), "sha256": run["init_from_sha256"]}
    if config.keep == "best":
        settings["best"] = json.loads((out / "best.json").read_text())
    write_json_atomic(out / "policy.json", settings)
    if config.keep == "best":
        with atomic_path(out / "policy.zip") as temporary:
            shutil.copyfile(out / "best.zip", temporary)
    else:
        save_model(model, out / "policy.zip", exclude=("tensorboard_log", "training_minutes"))
    for leftover in ("checkpoint.zip", "checkpoint.json"):
        (out / leftover).unlink(missing_ok=True)
