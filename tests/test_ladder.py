"""The held-out ladder: returns of policies in whole dreams and in the environment, kept on the disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from untrained import SPACES, make_world

from worldmodel import envs
from worldmodel.cli import command_line as cli
from worldmodel.cli.eval_ladder import is_same_policy
from worldmodel.collect import record, return_cache
from worldmodel.collect.batch_policies import batch_policy
from worldmodel.collect.collect_arguments import parse_mix
from worldmodel.collect.collect_config import Collect
from worldmodel.collect.learned_policy import LearnedPolicy
from worldmodel.collect.policy_specs import PolicySpec, describe_policy_file, parse_noisy_policy
from worldmodel.collect.return_cache import validation_returns
from worldmodel.common.errors import UserError
from worldmodel.common.policy_view import PolicyView
from worldmodel.common.spaces import Discrete, MultiDiscrete
from worldmodel.data import PolicyRecord
from worldmodel.dream.simulator import Simulator
from worldmodel.envs import env_registry
from worldmodel.metrics import EvaluationSettings, ladder
from worldmodel.metrics.dream_play import DreamPlay, episode_steps, play_dreams
from worldmodel.metrics.ladder import Rung
from worldmodel.prior import FlatConfig, Sampling
from worldmodel.world.world_model import WorldModel

SIZE = {"size": (16, 16)}


def policy_of(text: str, env: str = "toy", space: Any = None) -> PolicySpec:
    return parse_noisy_policy(text, space or Discrete(5), envs.policy_defaults(env))


# -- statistics by hand ------------------------------------------------------------------------------------


def test_spearman_by_hand() -> None:
    values = np.asarray([1.0, 2.0, 3.0, 4.0])
    assert ladder.spearman(values, 10 * values) == pytest.approx(1)
    assert ladder.spearman(values, -values) == pytest.approx(-1)
    assert ladder.spearman(values, np.asarray([2.0, 1.0, 4.0, 3.0])) == pytest.approx(1 - 6 * 4 / (4 * 15))
    assert ladder.spearman(values, np.asarray([1.0, 2.0, 2.0, 9.0])) == pytest.approx(4.5 / np.sqrt(5 * 4.5))  # a tie
    assert np.isnan(ladder.spearman(values, np.ones(4)))
    rho = ladder.estimate_rho(values, np.asarray([2.0, 1.0, 4.0, 3.0]))
    assert -1 <= (rho.low or 2) < rho.mean < (rho.high or 2) <= 1


def run_with(rungs: list[Rung]) -> Any:
    return SimpleNamespace(cached=lambda _: rungs, settings=EvaluationSettings(), ladder=())


def test_rank_and_ratio_leave_out_recorded_policies() -> None:
    def rung(name: str, dreamed: float, real: float, recorded: bool = False) -> Rung:
        noise = np.asarray([-1.0, 0.0, 1.0])
        return Rung(name, dreamed + noise, real + noise, recorded)

    rungs = [rung("a", 10, 5), rung("b", 20, 18), rung("c", 30, 40), rung("d", 50, 50)]
    run = run_with([*rungs, rung("e", 900, 1.5, recorded=True)])
    (rank,), (ratio,) = ladder.rank_correlation(run), ladder.worst_ratio(run)
    assert (rank.label, rank.value.mean) == ("4 policies", pytest.approx(1))
    assert (ratio.label, ratio.value.mean, ratio.verdict) == ("a", 2, "too high in the dream")
    assert (ratio.value.low or 2) < 2 < (ratio.value.high or 2)
    assert ratio.baselines["median policy"].mean == pytest.approx((20 / 18 + 40 / 30) / 2)
    assert [value.verdict for value in ladder.returns(run)] == ["recorded", "", "", "", ""]
    (ratio,) = ladder.worst_ratio(run_with([rung("c", 30, 60), rung("negative", -9, 5)]))
    assert (ratio.label, ratio.value.mean, ratio.verdict) == ("c", 2, "too low in the dream")
    assert not ladder.rank_correlation(run_with(rungs[:2]))


# -- whole dreams ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "flat"), [("Discrete", False), ("MultiDiscrete", True), ("Box", False)])
def test_dreams_are_those_of_a_simulator_with_the_same_seeds(name: str, flat: bool) -> None:
    world = make_world(SPACES[name], flat=flat, hazard=-2.5, max_steps=9)
    play = batch_policy(PolicySpec("random", "random"), SPACES[name])
    dreams = play_dreams(world, play, 12, seed=3)
    simulator = Simulator(world, 12, seed=3, sampling=Sampling(exact=False), backend="torch")
    frames, act = simulator.reset().numpy(), play(3, 12)
    expected = DreamPlay.zeros(world, 12)
    ended = np.zeros(12, bool)
    for t in range(9):
        actions = torch.as_tensor(act(frames))
        step = simulator.step(actions)
        running = ~ended
        expected.returns[running] += step.rewards.numpy()[running]
        expected.lengths[running] += 1
        expected.actions[running, t] = actions[running]
        expected.codes[running, t + 1] = step.codes[running]
        ended |= step.terminations.numpy()
        frames = step.frames.numpy()
    assert 0 < ended.sum() < 12
    np.testing.assert_array_equal(dreams.lengths, expected.lengths)
    np.testing.assert_array_equal(dreams.terminated, ended)
    np.testing.assert_allclose(dreams.returns, expected.returns, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dreams.actions, expected.actions)
    torch.testing.assert_close(dreams.codes[:, 1:], expected.codes[:, 1:])


def test_dreams_that_cannot_be_whole_episodes_are_refused() -> None:
    with pytest.raises(UserError, match="without a limit of steps"):
        episode_steps(make_world(max_steps=None))
    absolute = make_world(flat=True, max_steps=20)
    assert isinstance(absolute.prior.config, FlatConfig)
    assert episode_steps(absolute) == 20


# -- policies ----------------------------------------------------------------------------------------------


class SumModel:
    """A model whose action is the sum of its observation, modulo five."""

    device, action_space = torch.device("cpu"), gym.spaces.Discrete(5)

    def predict(self, observation: np.ndarray, deterministic: bool = False) -> tuple[np.ndarray, None]:
        return observation.astype(int).sum((-3, -2, -1)) % 5, None


@pytest.mark.parametrize("channels_first", [False, True])
def test_a_learned_policy_acts_alike_alone_and_for_many_episodes(channels_first: bool) -> None:
    frames = np.random.default_rng(0).integers(256, size=(7, 3, 8, 8, 3), dtype=np.uint8)  # T, R, H, W, C
    view = PolicyView((8, 8, 3), 2, (2, 8, 0, 8))

    def play(frames: np.ndarray) -> list[np.ndarray]:
        policy = LearnedPolicy(SumModel(), view, hold=2, channels_first=channels_first)
        policy.begin(np.random.default_rng(0))
        return [np.asarray(policy.act(frame)) for frame in frames]

    together, alone = np.stack(play(frames)), [np.stack(play(frames[:, row])) for row in range(3)]
    np.testing.assert_array_equal(together, np.stack(alone, 1))


def test_a_policy_file_acts_in_dreams_with_and_without_noise(tmp_path: Path) -> None:
    env = envs.make("toy", **SIZE)
    PPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu", seed=0).save(tmp_path / "policy.zip")
    env.close()
    spec = describe_policy_file(tmp_path / "policy.zip")
    frames = np.random.default_rng(0).integers(256, size=(40, 16, 16, 3), dtype=np.uint8)
    first, again, noisy = (
        batch_policy(replace(spec, epsilon=epsilon), env.meta.action_space, env)(0, 40)(frames)
        for epsilon in (0.0, 0.0, 0.9)
    )
    assert (first.shape, first.dtype) == ((40,), env.meta.action_space.dtype)
    np.testing.assert_array_equal(first, again)
    assert 10 < (first != noisy).sum() < 40


def test_noise_is_part_of_the_name_of_a_policy(tmp_path: Path) -> None:
    assert policy_of("periodic:3@0.25").epsilon == 0.25
    assert policy_of("periodic:3@0.25").params["period"] == 3
    with pytest.raises(UserError, match=r"share of random actions is 2\.0"):
        policy_of("random@2")
    with pytest.raises(UserError, match=r"no policy file at .*me@home"):
        policy_of(str(tmp_path / "me@home.zip"))


def test_recorded_policies_are_recognised() -> None:
    spec = policy_of("periodic:3@0.1")
    same = PolicyRecord("other name", "", {"kind": "periodic", "epsilon": 0.05, **spec.params})
    assert is_same_policy(spec, same)
    assert not is_same_policy(policy_of("periodic:3@0.3"), same)
    assert not is_same_policy(policy_of("periodic:4"), same)
    assert is_same_policy(policy_of("random"), PolicyRecord("random"))
    drawn = PolicyRecord("periodic:3-5", "", {**same.params, "periods": [3, 4, 5], "epsilons": [0.0, 0.3]})
    assert is_same_policy(policy_of("periodic:4@0.3"), drawn)
    assert not is_same_policy(policy_of("periodic:6"), drawn)
    actions = {"actions": spec.params["actions"], "periods": [3, 4]}
    ranges = PolicyRecord("periodic:3-4", "", {"kind": "periodic", "epsilon": 0.0, **actions})
    assert is_same_policy(policy_of("periodic:4"), ranges)
    assert is_same_policy(PolicySpec("periodic:3-4", "periodic", actions), ranges)
    file = PolicySpec("ppo", "file", {"learner": {}}, "x.zip", "abc")
    assert is_same_policy(file, PolicyRecord("mine", "abc", {"kind": "file", "epsilon": 0.0}))
    assert not is_same_policy(file, PolicyRecord("mine", "def", {"kind": "file", "epsilon": 0.0}))


LADDERS = [row for row in envs.rows() if row.ladder]


@pytest.mark.parametrize("row", LADDERS, ids=[row.name for row in LADDERS])
def test_ladders_have_ten_policies_that_no_preset_records(row: envs.EnvRow) -> None:
    spaces = {"doom/battle": MultiDiscrete((3, 3, 2, 2, 11)), "doom/battle2": MultiDiscrete((3, 3, 2, 2, 11))}
    space = spaces.get(row.name, Discrete(len(row.action_labels)))
    if row.name == "toy/continuous":
        space = envs.make(row.name).meta.action_space
    specs = [policy_of(text, row.name, space) for text in row.ladder]
    assert len({(spec.hash, spec.epsilon) for spec in specs}) == len(specs) >= 10
    for preset in Collect.PRESETS.values():
        if preset.env != row.name:
            continue
        for text in {preset.policy, *parse_mix(preset.mix)} - {"ppo"}:
            recorded = policy_of(text, row.name, space)
            params = {"kind": recorded.kind, "epsilon": preset.epsilon, **recorded.params}
            clashes = [s.name for s in specs if is_same_policy(s, PolicyRecord(text, "", params))]
            assert not clashes


# -- real returns ------------------------------------------------------------------------------------------


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[int]]:
    """The seeds of each call that plays an environment; the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    calls: list[list[int]] = []

    def play_returns(env: str, kwargs: dict[str, Any], spec: PolicySpec, seeds: list[int]) -> list[tuple[float, int]]:
        calls.append(seeds)
        return [(float(seed % 7), 1) for seed in seeds]

    monkeypatch.setattr(return_cache, "play_returns", play_returns)
    return calls


def test_real_returns_are_measured_once(played: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    first = validation_returns("toy", SIZE, policy_of("random"), 3)
    assert played == [[2_000_000, 2_000_001, 2_000_002]]
    np.testing.assert_array_equal(validation_returns("worldmodel/Toy-v0", SIZE, policy_of("random"), 2), first[:2])
    assert len(played) == 1
    assert len(validation_returns("toy", SIZE, policy_of("random"), 5)) == 5
    assert played[1:] == [[2_000_003, 2_000_004]]
    for spec, kwargs in (
        (policy_of("random@0.5"), SIZE),
        (policy_of("sticky"), SIZE),
        (policy_of("random"), {**SIZE, "max_steps": 20}),
        (PolicySpec("a", "file", {}, "", "hash 1"), SIZE),
        (PolicySpec("a", "file", {}, "", "hash 2"), SIZE),
    ):
        count = len(played)
        validation_returns("toy", kwargs, spec, 2)
        assert len(played) == count + 1
    monkeypatch.setattr(return_cache, "_source", lambda module: b"changed")
    validation_returns("toy", SIZE, policy_of("random"), 2)
    assert len(played) == 8


def test_a_damaged_file_is_measured_again(played: list[list[int]], tmp_path: Path) -> None:
    first = validation_returns("toy", SIZE, policy_of("random"), 3)
    (path,) = (tmp_path / "cache" / "worldmodel" / "returns").glob("*.json")
    path.write_text(path.read_text()[:40])
    np.testing.assert_array_equal(validation_returns("toy", SIZE, policy_of("random"), 3), first)
    assert len(played) == 2


# -- the command -------------------------------------------------------------------------------------------


def test_the_shipped_toy_has_the_right_order_and_a_broken_hazard_a_worse_ratio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    short = ("shelter", "shelter@0.4", "shelter@0.8", "periodic:3")
    rows = {i: replace(row, ladder=short) if row.name == "toy" else row for i, row in env_registry._ROWS.items()}
    monkeypatch.setattr(env_registry, "_ROWS", rows)
    data = record("toy", "random", tmp_path / "toy.h5", episodes=20, progress=False, **SIZE)
    out = tmp_path / "ladder.json"
    options = ["--data", str(data), "--metrics", "ladder", "--ladder-episodes", "10", "--device", "cpu", "--force"]

    def measure(world: str, *more: str) -> tuple[dict[str, Any], str]:
        cli.main(["eval", "world", world, *options, "--out", str(out), *more])
        return json.loads(out.read_text()), capsys.readouterr().out

    result, printed = measure("toy", "--ladder-policies", "random")
    metrics = result["sections"]["ladder"]
    assert {v["label"]: v["verdict"] for v in metrics["ladder_returns"]["values"]} == {
        **dict.fromkeys(short, ""),
        "random": "recorded",
    }
    (rank,), (ratio,) = metrics["ladder_rank"]["values"], metrics["ladder_ratio"]["values"]
    assert rank["label"] == "4 policies"
    assert rank["value"]["mean"] >= 0.8
    assert "Recorded, so left out of the ladder's rank and ratio: random." in printed
    assert metrics["ladder_returns"]["values"][-1]["baselines"]["real"]["mean"] == 10

    broken = WorldModel.from_pretrained("toy")
    with torch.no_grad():
        broken.prior.heads.end.bias += 9.0
    broken.save_pretrained(tmp_path / "broken")
    with pytest.raises(SystemExit):
        cli.main(["eval", "world", "toy", "--data", str(data), "--metrics", "nats", "--ladder-policies", "random"])
    assert "add --metrics ladder" in capsys.readouterr().err
    monkeypatch.setattr(return_cache, "play_returns", lambda *_: pytest.fail("measured already"))
    metrics = measure(str(tmp_path / "broken"))[0]["sections"]["ladder"]
    assert metrics["ladder_ratio"]["values"][0]["value"]["mean"] > 2 * ratio["value"]["mean"]
    assert metrics["ladder_ratio"]["values"][0]["verdict"] == "too low in the dream"


def test_a_policy_that_a_dream_cannot_give_its_state_is_refused() -> None:
    spec = PolicySpec("dodger", "scripted", dict(envs.policy_defaults("doom/take-cover")["dodger"]))
    with pytest.raises(UserError, match="a dream has none"):
        batch_policy(spec, Discrete(3))
