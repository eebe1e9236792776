"""Evaluation of a policy during its training, on seeds that neither training nor tests use."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from worldmodel.collect.collect_config import TrainPolicy
from worldmodel.collect.dream_evaluation import dream_returns
from worldmodel.collect.learned_policy import model_policy
from worldmodel.collect.learner_model import save_model
from worldmodel.collect.policy_evaluation import bootstrap_interval
from worldmodel.common.errors import UserError
from worldmodel.common.files import write_json_atomic

VALIDATION_SEED = 2_000_000  # the first; test seeds begin at 1,000,000


class Validator:
    """Plays the current policy on validation seeds and keeps the best one as best.zip.

    The policy samples its actions with generators of its own, so the training is the same as without evaluations.

    Args:
        config: of the training, with `eval_every`.
        venv: the environments of the training.

    Raises:
        UserError: a world without a horizon, where a dream might never end.
    """

    def __init__(self, config: TrainPolicy, venv: Any) -> None:
        assert config.eval_every is not None
        self.config, self.out, self.every = config, config.out, config.eval_every
        self.best: dict[str, Any] | None = None
        if (self.out / "best.json").exists():
            self.best = json.loads((self.out / "best.json").read_text())
        self.worlds = [] if config.world is None else venv.worlds
        if self.worlds and venv.horizon is None:
            raise UserError("--eval-every needs dreams that end, but this world has no horizon; leave it out.")

    def evaluate(self, model: Any, minutes: float) -> dict[str, Any]:
        """Play the validation episodes; write best.zip and best.json if the mean return is the highest so far.

        Args:
            model: the SB3 model.
            minutes: training time so far.

        Returns:
            The mean return, its 95 % interval, and the number of episodes, as entries of curve.jsonl.
        """
        returns = self._play_dreams(model) if self.worlds else self._play_env(model)
        low, high = bootstrap_interval(returns)
        row = {
            "validation_mean": float(returns.mean()),
            "validation_low": low,
            "validation_high": high,
            "validation_episodes": len(returns),
        }
        if self.best is None or row["validation_mean"] > self.best["validation_mean"]:
            self.best = {"minutes": minutes, "decisions": int(model.num_timesteps), **row}
            save_model(model, self.out / "best.zip", exclude=("tensorboard_log",))
            write_json_atomic(self.out / "best.json", self.best)
        return row

    def _play_env(self, model: Any) -> np.ndarray:
        """Returns of the validation episodes in the environment: (N,)."""
        from worldmodel import envs
        from worldmodel.collect.rollout import play

        name, kwargs = self.config.choose_env()
        env = envs.make(name, **kwargs)
        try:
            policy = model_policy(model, env, "the policy", self.config.learner, num_threads=1)
            seeds = range(VALIDATION_SEED, VALIDATION_SEED + self.config.eval_episodes)
            episodes = [play(env, policy, index=s, seed=0, policy_name="policy", env_seed=s) for s in seeds]
            return np.asarray([float(episode.rewards.sum()) for episode in episodes])
        finally:
            env.close()

    def _play_dreams(self, model: Any) -> np.ndarray:
        """Returns of one dream of each validation seed, spread over the worlds: (N,)."""
        return dream_returns(model, self.config.learner, self.worlds, self.config.eval_episodes, VALIDATION_SEED)[0]
