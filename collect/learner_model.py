"""The Stable-Baselines3 model of a training: new, from its own checkpoint, or with the weights of another training."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import stable_baselines3 as sb3

from worldmodel.collect.collect_config import TrainPolicy
from worldmodel.collect.learner_config import LearnerConfig
from worldmodel.collect.learner_view import SmallEncoder
from worldmodel.collect.policy_files import find_policy_file, guess_algorithm
from worldmodel.common.action_planes import ActionPlanes
from worldmodel.common.errors import UserError
from worldmodel.common.files import atomic_path
from worldmodel.common.spaces import from_gymnasium

GAE_LAMBDA = {"ppo": 0.95, "a2c": 1.0}  # SB3's defaults


class LinearSchedule:
    """A learning rate that falls linearly to 0 at the end of the budget, in decisions or minutes.

    SB3 calls it with the remaining share of the decisions. Both shares continue where a stopped training was saved.

    Args:
        rate: the learning rate at the start.
        minutes: the time limit of the training; None for none.
    """

    def __init__(self, rate: float, minutes: float | None) -> None:
        self.rate, self.minutes = rate, minutes
        self.minutes_so_far = 0.0  # set by the callback of the training

    def __call__(self, remaining: float) -> float:
        """The learning rate at a remaining share of the decisions, 1 to 0."""
        if self.minutes is not None:
            remaining = min(remaining, 1 - self.minutes_so_far / self.minutes)
        return self.rate * max(remaining, 0.0)


def normalized_rewards(venv: Any, learner: LearnerConfig) -> Any:
    """`venv`, with rewards divided by the running standard deviation of the discounted return if the settings ask it.

    Args:
        venv: an SB3 VecEnv.
        learner: the settings of the training.
    """
    if not learner.normalize_reward:
        return venv
    from stable_baselines3.common.vec_env import VecNormalize

    return VecNormalize(venv, norm_obs=False, gamma=learner.gamma)


def new_model(learner: LearnerConfig, venv: Any, seed: int, out: Path, device: str) -> Any:
    """A new SB3 model."""
    rate = learner.learning_rate
    encoder = {"width": learner.width}
    if learner.last_action:
        encoder["action_planes"] = ActionPlanes(from_gymnasium(venv.action_space)).count
    common: dict[str, Any] = {
        "learning_rate": rate if learner.schedule == "constant" else LinearSchedule(rate, learner.minutes),
        "gamma": learner.gamma,
        "seed": seed,
        "device": device,
        "tensorboard_log": str(out / "tensorboard") if find_spec("tensorboard") else None,
        "policy_kwargs": {
            "features_extractor_class": SmallEncoder,
            "features_extractor_kwargs": encoder,
        },
    }
    if learner.algo in ("ppo", "a2c"):
        return _actor_critic(learner, venv, common)
    common |= {"buffer_size": learner.buffer_size, "batch_size": learner.batch_size, "learning_starts": 1000}
    if learner.algo == "dqn":
        return sb3.DQN("CnnPolicy", venv, **common)
    return sb3.SAC("CnnPolicy", venv, train_freq=1, gradient_steps=1, **common)


def _actor_critic(learner: LearnerConfig, venv: Any, common: dict[str, Any]) -> Any:
    """A new PPO or A2C model."""
    common |= {
        "n_steps": learner.rollout_steps,
        "ent_coef": learner.entropy,
        "vf_coef": learner.value_coef,
        "max_grad_norm": learner.max_grad_norm,
        "gae_lambda": GAE_LAMBDA[learner.algo] if learner.gae_lambda is None else learner.gae_lambda,
    }
    if learner.algo == "a2c":
        return sb3.A2C("CnnPolicy", venv, **common)
    size = min(learner.batch_size, learner.rollout_steps * learner.num_envs)
    return sb3.PPO("CnnPolicy", venv, batch_size=size, n_epochs=learner.epochs, clip_range=learner.clip_range, **common)


def load_checkpoint(config: TrainPolicy, venv: Any) -> tuple[Any, float]:
    """The model of this training's checkpoint, and the minutes of training before it."""
    checkpoint = config.out / "checkpoint.zip"
    algorithm = getattr(sb3, config.learner.algo.upper())
    model = algorithm.load(checkpoint, env=venv, device=config.device)
    minutes = getattr(model, "training_minutes", None)
    if minutes is None:  # of earlier versions
        minutes = json.loads(checkpoint.with_suffix(".json").read_text())["minutes"]
    _restore_reward_statistics(model, getattr(model, "reward_statistics", None))
    return model, minutes


def save_checkpoint(model: Any, out: Path, minutes: float) -> None:
    """Write checkpoint.zip atomically, with the training time so far."""
    model.training_minutes = minutes
    save_model(model, out / "checkpoint.zip")


def save_model(model: Any, path: Path, exclude: tuple[str, ...] = ()) -> None:
    """Write a model atomically, with the statistics of its rewards if they are normalized.

    Args:
        model: the SB3 model.
        path: the .zip.
        exclude: attributes that are left out.
    """
    normalized = model.get_vec_normalize_env()
    if normalized is not None:
        rms = normalized.ret_rms
        model.reward_statistics = {"mean": float(rms.mean), "var": float(rms.var), "count": float(rms.count)}
    with atomic_path(path) as temporary:
        model.save(temporary, exclude=list(exclude))


def _restore_reward_statistics(model: Any, statistics: dict[str, float] | None) -> None:
    normalized = model.get_vec_normalize_env()
    if normalized is None or statistics is None:
        return
    rms = normalized.ret_rms
    rms.mean, rms.var, rms.count = np.float64(statistics["mean"]), np.float64(statistics["var"]), statistics["count"]


def load_initial_weights(model: Any, path: Path, algo: str) -> None:
    """Give a new model the weights of a saved one; its optimizer and reward statistics too if the algorithm matches.

    The number of decisions, the schedule and the other settings stay those of the new model.

    Args:
        model: the new SB3 model.
        path: an SB3 file, or the directory of a training.
        algo: the algorithm of the new model.

    Raises:
        UserError: the file is not an SB3 file, or has other observations, actions or networks.
    """
    from stable_baselines3.common.save_util import load_from_zip_file, recursive_setattr

    path = find_policy_file(path)
    saved_algo = guess_algorithm(path)
    data, parameters, variables = load_from_zip_file(path, device=model.device)
    assert data is not None
    for name in ("observation_space", "action_space"):
        if data[name] != getattr(model, name):
            kind = name.partition("_")[0]
            raise UserError(f"--init-from {path} has the {kind} space {data[name]}, this run {getattr(model, name)}.")
    saved: dict[str, Any] = parameters["policy"]  # type: ignore[assignment]  # a state_dict
    own = model.policy.state_dict()
    differing = [
        key for key in {**own, **saved} if key not in own or key not in saved or own[key].shape != saved[key].shape
    ]
    if differing:
        raise UserError(
            f"--init-from {path} ({saved_algo}) has another network than this run ({algo}): {differing[0]} differs; "
            "give the --learner.width and an --learner.algo of the same kind."
        )
    same = saved_algo == algo
    model.set_parameters(parameters if same else {"policy": saved}, exact_match=same, device=model.device)
    if same:
        for name, value in (variables or {}).items():  # the entropy coefficient of SAC
            recursive_setattr(model, f"{name}.data", value.data)
        _restore_reward_statistics(model, data.get("reward_statistics"))
