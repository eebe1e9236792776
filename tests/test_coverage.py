"""Recordings that cover many periods and strengths of noise, without the periods that are reserved for evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from worldmodel import envs
from worldmodel.cli.eval_world import policies_of
from worldmodel.collect import record
from worldmodel.collect.collect_arguments import parse_mix
from worldmodel.collect.collect_config import Collect
from worldmodel.collect.policies import NoisyPolicy, PeriodicPolicy
from worldmodel.collect.policy_specs import PolicySpec, choose_policy, mix_policies, parse_policy, with_epsilons
from worldmodel.collect.rollout import episode_seeds
from worldmodel.common.errors import UserError
from worldmodel.common.run_info import check_same_run, save_run_info
from worldmodel.common.spaces import Discrete
from worldmodel.data import Dataset
from worldmodel.envs.env_registry import lookup

SPACE = Discrete(3)
RESERVED = set(lookup("doom/take-cover").reserved_periods)


def begun(spec: PolicySpec, seed: int, index: int, space: Discrete = SPACE) -> NoisyPolicy:
    """The noisy policy as it plays an episode of a recording."""
    policy = spec.build(space)
    assert isinstance(policy, NoisyPolicy)
    policy.begin(episode_seeds(seed, index)[1])
    return policy


def preset_policies(preset: Collect) -> tuple[PolicySpec, ...]:
    """The policies of a preset that need no environment to be parsed."""
    defaults = envs.policy_defaults(preset.env)
    parsed = {name: parse_policy(name, SPACE, defaults) for name in (preset.policy, *parse_mix(preset.mix))}
    shares = parse_mix(preset.mix)
    specs = {name: with_epsilons(spec, preset.epsilons) for name, spec in parsed.items()}
    others = [replace(specs[name], share=share) for name, share in shares.items()]
    return mix_policies(specs[preset.policy], others)


def test_the_presets_cover_all_periods_and_noises_but_the_reserved() -> None:
    preset = Collect.PRESETS["take-cover-coverage"]
    assert Collect.PRESETS["take-cover-coverage-1m"] == replace(preset, episodes=7400)
    policies = preset_policies(preset)
    shares = [policy.share for policy in policies]
    periods, noises = [], []
    for index in range(preset.episodes):
        spec = policies[choose_policy(shares, preset.seed, index)]
        if spec.kind != "scripted":
            policy = begun(spec, preset.seed, index)
            noises.append(policy.epsilon)
            if isinstance(policy.inner, PeriodicPolicy):
                periods.append(policy.inner.period)
    assert set(periods) == set(range(6, 61)) - RESERVED
    counts = np.bincount(periods)[sorted(set(periods))]
    assert counts.max() < 4 * counts.mean(), "no period dominates"
    assert {10, 11, 12, 13, 14, 15, 16, 17, 18, 23, 24, 25} == RESERVED
    assert set(noises) == set(preset.epsilons)
    assert {spec.name for spec in policies} >= {"random", "sticky:0.7", "sticky", "sticky:0.95", "sticky:0.98"}


def changes(actions: np.ndarray) -> set[int]:
    """Numbers of steps between changes of the action."""
    return set(np.diff(np.flatnonzero(np.diff(actions) != 0)).tolist())


def test_a_recorded_episode_plays_the_period_that_its_seed_gives(tmp_path: Path) -> None:
    path = record("toy", "periodic:2-4", tmp_path / "toy.h5", episodes=12, seed=7, size=8, progress=False)
    spec = parse_policy("periodic:2-4", Discrete(5), envs.policy_defaults("toy"))
    periods = set()
    with Dataset(path) as data:
        for number in range(data.num_episodes):
            episode = data.episode(number)
            policy = spec.build(Discrete(5))
            policy.begin(episode_seeds(7, episode.index)[1])
            assert isinstance(policy, PeriodicPolicy)
            assert changes(episode.actions) == {policy.period}
            periods.add(policy.period)
        assert data.header.policies[0].params["periods"] == [2, 3, 4]
    assert periods == {2, 3, 4}


def test_a_recorded_episode_has_the_noise_that_its_seed_gives(tmp_path: Path) -> None:
    path = record(
        "toy", "periodic:2-4", tmp_path / "toy.h5", episodes=12, seed=7, epsilons=(0.0, 0.5), mix_with="random=0.3",
        size=8, progress=False,
    )  # fmt: skip
    noises = set()
    with Dataset(path) as data:
        assert all(policy.params["epsilons"] == [0.0, 0.5] for policy in data.header.policies)
        for number in np.flatnonzero(data.policies == "periodic:2-4"):
            episode = data.episode(int(number))
            spec = with_epsilons(parse_policy("periodic:2-4", Discrete(5), envs.policy_defaults("toy")), (0.0, 0.5))
            policy = begun(spec, 7, episode.index, Discrete(5))
            noises.add(policy.epsilon)
            expected = [int(policy.act(frame)) for frame in episode.frames[:-1]]
            np.testing.assert_array_equal(episode.actions, expected)
        assert noises == {0.0, 0.5}
        assert set(policies_of(data)) == {"periodic:2-4", "random"}, "they can be rebuilt from the header"


def test_a_range_leaves_out_reserved_periods_and_a_single_period_does_not() -> None:
    defaults = {"periodic": {"actions": [1, 2], "period": 32, "reserved_periods": (3,)}}
    assert parse_policy("periodic:2-4", SPACE, defaults).params["periods"] == [2, 4]
    assert parse_policy("periodic:3", SPACE, defaults).params == {"actions": [1, 2], "period": 3}
    assert parse_policy("periodic", SPACE, defaults).params == {"actions": [1, 2], "period": 32}
    wrong = {"3-3": "not reserved", "4-2": "FIRST-LAST", "2-x": "not a number", "-3": "got period -3"}
    for text, words in wrong.items():
        with pytest.raises(UserError, match=words):
            parse_policy(f"periodic:{text}", SPACE, defaults).build(SPACE)


def test_noise_changes_the_hash_and_is_checked() -> None:
    spec = parse_policy("random", SPACE, {})
    noisy = with_epsilons(spec, (0.1, 0.2))
    assert with_epsilons(spec, ()) == spec
    assert noisy.hash not in (spec.hash, with_epsilons(spec, (0.1, 0.3)).hash)
    for wrong in (spec, parse_policy("random", SPACE, {}, epsilon=0.1)):
        with pytest.raises(UserError, match="from 0 to 1"):
            with_epsilons(wrong, (0.5, 1.5) if wrong is spec else (0.5,))


def test_a_recording_of_an_earlier_version_continues(tmp_path: Path) -> None:
    config, saved = Collect(tmp_path / "a.h5", "toy"), tmp_path / "a.run.json"
    save_run_info(saved, "collect", config)
    saved.write_text(saved.read_text().replace('"epsilons": [],', ""))
    assert '"epsilons"' not in saved.read_text()
    check_same_run(saved, config.out, config)
