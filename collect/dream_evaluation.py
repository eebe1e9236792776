"""Returns of a trained policy in the dreams of a world."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.collect.global_state import EpisodeGenerator
from worldmodel.collect.learner_config import LearnerConfig
from worldmodel.collect.policy_evaluation import bootstrap_interval
from worldmodel.common.errors import UserError
from worldmodel.world.world_model import WorldModel


def dream_returns(
    model: Any,
    learner: LearnerConfig,
    world: str | Path | WorldModel | Sequence[WorldModel],
    episodes: int,
    seed: int,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Play one dream of each seed with a Stable-Baselines3 model, with the observations of its training.

    Dreams begin and end like episodes of the environment, whatever the settings of the training; a world without a
    horizon has that of the training.

    Args:
        model: the SB3 model; it samples its actions.
        learner: settings of its training.
        world: a world, its directory or name, or several worlds, over which the rows are spread.
        episodes: N, the rows of the batch of dreams; row i begins with `seed` + i.
        seed: of the dreams and of the sampled actions.
        device: where a world given as a directory is loaded.

    Returns:
        Returns of the world's own reward, (N,), and lengths in steps, (N,).

    Raises:
        UserError: a world without a horizon, where a dream might never end.
    """
    from worldmodel.dream import DreamLearnerEnv
    from worldmodel.dream.dream_options import RECORDED

    def make(horizon: Any) -> Any:
        return DreamLearnerEnv(
            world, episodes, frame_stack=learner.frame_stack, last_action=learner.last_action, view=learner.view,
            hold=learner.hold, horizon=horizon, seed=seed, device=device,
        )  # fmt: skip

    dreams = make(RECORDED)
    if dreams.horizon is None and learner.horizon is not None:
        dreams = make(learner.horizon)
    if dreams.horizon is None:
        raise UserError("returns in dreams need dreams that end, but this world has no horizon.")
    generator = EpisodeGenerator(model.device)
    generator.seed(seed)
    returns, lengths, observations = np.full(episodes, np.nan), np.zeros(episodes, np.int64), dreams.reset()
    while np.isnan(returns).any():
        with generator.active():
            actions, _ = model.predict(observations)
        observations, _, dones, infos = dreams.step(actions)
        for i in np.flatnonzero(dones & np.isnan(returns)):
            returns[i], lengths[i] = infos[i]["episode"]["r"], infos[i]["episode"]["l"]
    return returns, lengths


def evaluate_in_dreams(policy: Path, world: Path, episodes: int, seed: int, device: str = "auto") -> dict[str, Any]:
    """Play a finished training of `train policy` in dreams.

    Args:
        policy: its directory; policy.zip contains pickles, so load only those that you trust.
        world: a world directory.
        episodes, seed, device: as in `dream_returns`.

    Returns:
        A row like those of `policy_evaluation.evaluate`: mean return, its 95 % interval, mean steps, and all returns.
    """
    import stable_baselines3

    from worldmodel.collect.global_state import preserved_global_state

    learner = LearnerConfig.from_json(json.loads((policy / "policy.json").read_text())["learner"])
    with preserved_global_state():
        model = getattr(stable_baselines3, learner.algo.upper()).load(policy / "policy.zip", device="cpu")
        returns, lengths = dream_returns(model, learner, world, episodes, seed, device)
    low, high = bootstrap_interval(returns)
    return {
        "episodes": episodes,
        "return_mean": float(returns.mean()),
        "low": low,
        "high": high,
        "steps_mean": float(lengths.mean()),
        "returns": returns.tolist(),
    }
