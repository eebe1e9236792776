"""Reactivity of a policy to what it observes, and its exploitation of a world."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from untrained import SPACES, make_world

from worldmodel import envs
from worldmodel.cli import command_line as cli
from worldmodel.collect import eval_policy_command, record
from worldmodel.collect.batch_policies import batch_policy
from worldmodel.collect.other_episode import OtherEpisodePolicy, replay_returns
from worldmodel.collect.policies import PeriodicPolicy
from worldmodel.collect.policy_evaluation import play_returns
from worldmodel.collect.policy_specs import PolicySpec, parse_noisy_policy
from worldmodel.collect.rollout import episode_seeds
from worldmodel.common.errors import UserError
from worldmodel.common.spaces import Discrete
from worldmodel.metrics.dream_play import DreamPlay, play_dreams
from worldmodel.metrics.exploitation import (
    MEASURES,
    check_pair,
    choose_clips,
    dreamed_clips,
    exploitation,
    two_predictions,
)
from worldmodel.metrics.reactivity import dream_reactivity, observe_other_dreams, other_episodes
from worldmodel.prior import StatusConfig
from worldmodel.world.world_model import WorldModel

SMALL: dict[str, Any] = {"size": (16, 16)}


def toy_policy(text: str) -> PolicySpec:
    return parse_noisy_policy(text, Discrete(5), envs.policy_defaults("toy"))


# -- reactivity --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["shelter@0.2", "sticky"])
def test_a_policy_that_observes_the_episode_it_plays_has_its_own_return(text: str) -> None:
    spec, seeds = toy_policy(text), [5, 9, 2]
    own = play_returns("toy", SMALL, spec, seeds)
    assert replay_returns("toy", SMALL, spec, [(seed, seed) for seed in seeds], 100) == own


def test_actions_are_those_of_the_other_episode_and_continue_after_its_end() -> None:
    observed = envs.make("toy", max_steps=6, **SMALL)
    policy = OtherEpisodePolicy(PeriodicPolicy([1, 2], 4), observed, seeds_between=50)
    policy.seed = 3
    policy.begin(np.random.default_rng(99))
    actions = [policy.act(np.zeros((16, 16, 3), np.uint8)) for _ in range(20)]
    uninterrupted = PeriodicPolicy([1, 2], 4)
    uninterrupted.begin(episode_seeds(0, 3)[1])
    assert actions == [uninterrupted.act(observed.render()) for _ in range(20)]
    assert policy.seed == 3 + 3 * 50


def test_every_episode_is_observed_once_and_never_its_own() -> None:
    others = other_episodes(7)
    assert sorted(others) == list(range(7))
    assert (others != np.arange(7)).all()


def test_a_dream_that_observes_itself_has_its_own_return() -> None:
    world = make_world(hazard=-2.5, max_steps=9)
    play = batch_policy(PolicySpec("sticky", "sticky", {"stick": 0.5}), SPACES["Discrete"])
    own = play_dreams(world, play, 8, seed=2)
    same = play_dreams(world, observe_other_dreams(world, play, np.arange), 8, seed=2)
    np.testing.assert_allclose(same.returns, own.returns, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(same.actions, own.actions)
    swapped = play_dreams(world, observe_other_dreams(world, play), 8, seed=2)
    assert own.lengths.min() < own.lengths.max(), "rows end at different steps"
    steps = min(own.lengths[1], swapped.lengths[0])
    torch.testing.assert_close(swapped.actions[0, :steps], own.actions[1, :steps])


def test_dreams_of_an_open_loop_policy_do_not_react() -> None:
    world = make_world(hazard=-2.5, max_steps=9)
    play = batch_policy(PolicySpec("random", "random"), SPACES["Discrete"])
    assert not dream_reactivity(world, play, 40, seed=2).reacts


def test_the_command_tells_a_policy_that_reacts_from_one_that_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--env", "toy", "--size", "16", "16"]
    out = tmp_path / "reactivity.json"
    options = ["--episodes", "40", "--workers", "1", "--reactivity", "--out", str(out)]
    cli.main(["eval", "policy", "shelter", "shelter@0.5", "periodic:3", *small, *options])
    printed, rows = capsys.readouterr().out, json.loads(out.read_text())["rows"]
    found = {row["policy"]: row["reactivity"]["environment"] for row in rows}
    assert {name: reactivity["reacts"] for name, reactivity in found.items()} == {
        "shelter": True,
        "shelter@0.5": True,
        "periodic:3": False,
    }
    difference = found["shelter"]["own"]["mean"] - found["shelter"]["replayed"]["mean"]
    assert found["shelter"]["own_minus_replayed"]["mean"] == pytest.approx(difference)
    assert found["shelter"]["own"]["mean"] == rows[0]["return_mean"] == 10
    assert "periodic:3, environment" in printed


# -- exploitation ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world() -> WorldModel:
    return make_world(hazard=-2.0, max_steps=15)


@pytest.fixture(scope="module")
def dreams(world: WorldModel) -> DreamPlay:
    return play_dreams(world, batch_policy(PolicySpec("random", "random"), SPACES["Discrete"]), 10)


def test_equal_worlds_agree_exactly_and_worlds_of_other_weights_do_not(world: WorldModel, dreams: DreamPlay) -> None:
    clips = dreamed_clips(world, dreams, 5, 20)
    found = exploitation(two_predictions(world, copy.deepcopy(world), *clips), None)
    assert set(found) == set(MEASURES)
    assert found["excess"]["dreamed"].mean == found["hazard_gap"]["dreamed"].mean == 0
    assert found["surprise"]["dreamed"].mean > 0

    other_hazard = copy.deepcopy(world)
    with torch.no_grad():
        other_hazard.prior.heads.end.bias.add_(2.0)
    found = exploitation(two_predictions(world, other_hazard, *clips), None)
    gap, first, second = (found[name]["dreamed"].mean for name in ("hazard_gap", "hazard", "second_hazard"))
    assert 0.05 < gap == pytest.approx(second - first)
    assert found["excess"]["dreamed"].mean == 0, "ends are given to the likelihood of frames"

    other = copy.deepcopy(world)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in other.prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    first_half, second_half = (two_predictions(world, other, *dreamed_clips(world, dreams, 5, n)) for n in (20, 8))
    found = exploitation(first_half, second_half)
    assert found["excess"]["dreamed"].mean != 0
    values = found["excess"]
    assert values["dreamed_minus_recorded"].mean == pytest.approx(values["dreamed"].mean - values["recorded"].mean)


def test_dreamed_clips_are_parts_of_dreams(world: WorldModel, dreams: DreamPlay) -> None:
    clip, rows = dreamed_clips(world, dreams, 4, 100)
    assert clip.terminations.sum() > 0
    for i, row in enumerate(rows):
        starts = [s for s in range(12) if torch.equal(dreams.codes[row, s : s + 4], clip.codes[i])]
        assert any(torch.equal(dreams.actions[row, s : s + 3], clip.actions[i]) for s in starts)
        assert any(torch.equal(dreams.status[row, s : s + 4], clip.status[i]) for s in starts)
        ends = clip.terminations[i]
        assert not ends[:-1].any()
        assert bool(ends[-1]) <= bool(dreams.terminated[row])
    assert clip.frame_valid.all()
    blind = copy.copy(world)
    blind.spec = replace(world.spec, end_has_frame=False)
    hidden, _ = dreamed_clips(blind, dreams, 4, 100)
    torch.testing.assert_close(hidden.frame_valid[:, 1:], ~hidden.terminations)


def test_clips_do_not_overlap_and_reach_the_end_of_episodes() -> None:
    frames = np.asarray([3, 9, 10, 4] * 10)
    rows, starts = choose_clips(frames, 4, 1000)
    assert (starts + 4 <= frames[rows]).all()
    for row in np.unique(rows):
        assert (np.diff(np.sort(starts[rows == row])) == 4).all()
    assert (starts + 4 == frames[rows])[frames[rows] == 10].any()
    assert (starts == 0).any()
    assert 0 not in frames[rows] - 3, "too short"
    assert len(choose_clips(frames, 4, 5)[0]) == 5
    with pytest.raises(UserError, match="fit 0 times into 40 episodes"):
        choose_clips(frames, 11, 5)


def test_a_second_world_of_another_config_is_refused(world: WorldModel) -> None:
    with pytest.raises(UserError, match="another seed"):
        check_pair(world, make_world(SPACES["Box"]))
    with pytest.raises(UserError, match="a hidden variable"):
        check_pair(world, make_world(status=StatusConfig("lives", (0.5,))))


def test_the_command_compares_dreams_with_recorded_clips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = record("toy", "sticky", tmp_path / "toy.h5", episodes=30, progress=False, **SMALL)
    second = WorldModel.from_pretrained("toy")
    with torch.no_grad():
        second.prior.heads.end.bias.add_(3.0)
    second.save_pretrained(tmp_path / "second")
    worlds = ["--world", "toy", "--second-world", str(tmp_path / "second"), "--device", "cpu"]
    out = tmp_path / "policy.json"
    options = ["--episodes", "6", "--workers", "1", "--data", str(data), "--out", str(out)]
    cli.main(["eval", "policy", "random", *worlds, *options])
    (row,) = json.loads(out.read_text())["rows"]
    assert set(row["exploitation"]["excess"]) == {"dreamed", "recorded", "dreamed_minus_recorded"}
    assert row["exploitation"]["second_hazard"]["dreamed"]["mean"] > row["exploitation"]["hazard"]["dreamed"]["mean"]
    assert "random, hazard_gap (per step):" in capsys.readouterr().out


def test_what_cannot_be_measured_is_refused_before_an_episode_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(eval_policy_command, "evaluate", lambda *_: pytest.fail("episodes were played"))
    world = make_world(status=StatusConfig("lives", (0.5,)))
    world.save_pretrained(tmp_path / "other")
    for options, message in (
        (["--second-world", str(tmp_path / "other")], "trained with the same config"),
        (["--second-world", "toy", "--data", str(tmp_path / "no.h5")], "no.h5"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(["eval", "policy", "random", "--world", "toy", *options])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--second-world", "toy"], "needs --world"), (["--data", "a.h5", "--world", "toy"], "give both or neither")],
)
def test_options_without_their_partner_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["eval", "policy", "random", *options])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
