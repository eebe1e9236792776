"""Conversion of configs that earlier versions saved in run.json."""

from __future__ import annotations

from typing import Any

# Fields that were added after version 0.1, with the values that earlier runs had.
_ADDED_TO_LEARNER = {
    "schedule": "constant",
    "normalize_reward": False,
    "gae_lambda": None,
    "clip_range": 0.2,
    "value_coef": 0.5,
    "max_grad_norm": 0.5,
    "last_action": False,
    "mirror": False,
    "horizon": None,
    "temperature": 1.0,
    "start_before_end": 0.0,
    "disagreement_penalty": 0.0,
    "backend": "auto",
    "threads": 1,
}
_ADDED_TO_COLLECT: dict[str, Any] = {"epsilons": []}
_ADDED_TO_TRAIN_POLICY: dict[str, Any] = {"eval_episodes": 20, "keep": "last", "more_worlds": [], "starts_from": []}


def upgrade_config(config: dict[str, Any]) -> dict[str, Any]:
    """A saved config with the fields of this version.

    Until version 0.1 the options of an environment were the field `screen`, and the status bar of ViZDoom was its
    field `hud`. They are `env_options` and `env_args` since.

    Args:
        config: of run.json; not changed.
    """
    if isinstance(config, dict) and isinstance(config.get("learner"), dict):
        config = {**config, "learner": {**_ADDED_TO_LEARNER, **config["learner"]}}
        if "test_episodes" in config:  # of `train policy`
            config = {**_ADDED_TO_TRAIN_POLICY, **config}
        if "shard" in config:  # of `collect`
            config = {**_ADDED_TO_COLLECT, **config}
    if not isinstance(config, dict) or not isinstance(config.get("screen"), dict):
        return config
    upgraded = {key: value for key, value in config.items() if key != "screen"}
    options = dict(config["screen"])
    hud = options.pop("hud", False)
    return {**upgraded, "env_options": {**options, "env_args": "hud=true" if hud is True else ""}}
