"""Does a policy react to what it observes, and does it exploit its world: parts of `worldmodel eval policy`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from worldmodel.collect.batch_policies import batch_policy
from worldmodel.collect.collect_config import EvalPolicy
from worldmodel.collect.env_options import choose_env
from worldmodel.collect.other_episode import replay_returns
from worldmodel.collect.policy_evaluation import run_jobs
from worldmodel.collect.policy_specs import PolicySpec
from worldmodel.common.errors import UserError

if TYPE_CHECKING:
    from worldmodel.metrics.exploitation import TwoPredictions
    from worldmodel.metrics.reactivity import Reactivity
    from worldmodel.metrics.statistics import Estimate
    from worldmodel.world.world_model import WorldModel

CLIPS, AHEAD = 256, 8  # clips of each side, and frames of a clip after the window of the prior


def diagnose(config: EvalPolicy, rows: list[dict[str, Any]], policies: Mapping[str, PolicySpec], env: Any) -> str:
    """Measure reactivity and exploitation, as the config asks.

    Args:
        config: of the command.
        rows: the rows of `policy_evaluation.evaluate`; entries "reactivity" and "exploitation" are added.
        policies: label -> policy.
        env: a `PixelEnv` of the command's environment; it may be closed.

    Returns:
        The results as text.

    Raises:
        UserError: a second world that does not fit the first, or dreams that cannot be whole episodes.
    """
    from worldmodel.common.runtime import choose_runtime
    from worldmodel.world.world_model import WorldModel

    world, lines = None, []
    if config.world is not None:
        world = WorldModel.from_pretrained(config.world, choose_runtime(config.device).device)
    if config.reactivity:
        lines += _add_reactivity(config, rows, policies, env, world)
    if config.second_world is not None:
        assert world is not None, "checked by eval_policy"
        second = WorldModel.from_pretrained(config.second_world, world.device)
        lines += _add_exploitation(config, rows, policies, env, world, second)
    return "\n".join(lines)


def check_diagnostics(config: EvalPolicy, policies: Mapping[str, PolicySpec], env: Any) -> None:
    """Refuse what `diagnose` cannot measure, before an episode is played.

    Args:
        config, policies, env: as for `diagnose`.

    Raises:
        UserError: a second world that does not fit the first, a policy that cannot act in dreams, or a dataset that
            cannot be read.
    """
    if config.second_world is None:
        return
    from worldmodel.data import Dataset
    from worldmodel.metrics.exploitation import check_pair
    from worldmodel.world.world_model import WorldModel

    assert config.world is not None, "checked by eval_policy"
    world = WorldModel.from_pretrained(config.world)
    check_pair(world, WorldModel.from_pretrained(config.second_world))
    for spec in policies.values():
        batch_policy(spec, world.spec.action_space, env)
    if config.data:
        Dataset.open_cropped(list(config.data), world.spec.pixels).close()


def _add_reactivity(
    config: EvalPolicy, rows: list[dict[str, Any]], policies: Mapping[str, PolicySpec], env: Any,
    world: WorldModel | None,
) -> list[str]:  # fmt: skip
    from worldmodel.metrics.reactivity import dream_reactivity

    name, kwargs = choose_env(config.env, config.world, config.env_options)
    lines = ["", "reactivity: return with its own actions, with its actions of another episode, difference"]
    for row in rows:
        label, spec = row["policy"], policies[row["policy"]]
        found = {"environment": env_reactivity(name, kwargs, spec, row["returns"], config.first_seed, config.workers)}
        if world is not None:
            try:
                play = batch_policy(spec, env.meta.action_space, env)
            except UserError as error:  # it needs more than frames
                lines.append(f"{label}, dreams: {error}")
            else:
                found["dreams"] = dream_reactivity(world, play, config.episodes, config.first_seed)
        row["reactivity"] = {place: reactivity.to_json() for place, reactivity in found.items()}
        for place, reactivity in found.items():
            texts = [_text(x) for x in (reactivity.own, reactivity.replayed, reactivity.difference)]
            lines.append("  ".join([f"{label}, {place}:", *texts, "reacts" if reactivity.reacts else "does not react"]))
    return lines


def env_reactivity(
    env: str, env_kwargs: dict[str, Any], spec: PolicySpec, own: list[float], first_seed: int, workers: int
) -> Reactivity:
    """Reactivity of a policy in an environment; see `metrics.reactivity`.

    Args:
        env, env_kwargs, spec: as for `policy_evaluation.play_returns`.
        own: its returns on the seeds first_seed, first_seed + 1, ...
        first_seed: the first seed.
        workers: processes.
    """
    from worldmodel.metrics.reactivity import estimate_reactivity, other_episodes

    count = len(own)
    pairs = [(first_seed + i, first_seed + int(other)) for i, other in enumerate(other_episodes(count))]
    parts = [pairs[i::workers] for i in range(workers) if pairs[i::workers]]
    played = run_jobs(replay_returns, env, [(env, env_kwargs, spec, part, count) for part in parts], workers)
    returns = {pair: value for part, results in zip(parts, played, strict=True)
               for pair, (value, _) in zip(part, results, strict=True)}  # fmt: skip
    return estimate_reactivity(np.asarray(own), np.asarray([returns[pair] for pair in pairs]))


def _add_exploitation(
    config: EvalPolicy, rows: list[dict[str, Any]], policies: Mapping[str, PolicySpec], env: Any, world: WorldModel,
    second: WorldModel,
) -> list[str]:  # fmt: skip
    from worldmodel.metrics.dream_play import play_dreams
    from worldmodel.metrics.exploitation import (
        MEASURES,
        check_pair,
        dreamed_clips,
        exploitation,
        exploitation_json,
        two_predictions,
    )

    check_pair(world, second)
    recorded = _recorded_predictions(config, world, second)
    lines = ["", "exploitation: on dreams of the policy, on recorded clips, difference"]
    for row in rows:
        spec = policies[row["policy"]]
        play = batch_policy(spec, world.spec.action_space, env)
        dreams = play_dreams(world, play, config.episodes, config.first_seed)
        clips = dreamed_clips(world, dreams, world.prior.window + AHEAD, CLIPS, config.first_seed)
        dreamed = two_predictions(world, second, *clips)
        found = exploitation(dreamed, recorded)
        row["exploitation"] = exploitation_json(found)
        for measure, values in found.items():
            texts = [_text(estimate) for estimate in values.values()]
            lines.append("  ".join([f"{row['policy']}, {measure} ({MEASURES[measure][0]}):", *texts]))
    return lines


def _recorded_predictions(config: EvalPolicy, world: WorldModel, second: WorldModel) -> TwoPredictions | None:
    """Predictions of both worlds on clips of the test split; None without a dataset."""
    from worldmodel.data import Dataset
    from worldmodel.metrics import EvaluationRun, EvaluationSettings
    from worldmodel.metrics.exploitation import recorded_clips, two_predictions

    if not config.data:
        return None
    settings = EvaluationSettings(clips=CLIPS, ahead=AHEAD)
    with Dataset.open_cropped(list(config.data), world.spec.pixels) as data:
        clips = recorded_clips(EvaluationRun(world, data, {}, settings))
    return two_predictions(world, second, *clips)


def _text(estimate: Estimate) -> str:
    if estimate.low is None:
        return f"{estimate.mean:.4g}"
    return f"{estimate.mean:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]"
