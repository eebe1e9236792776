"""`improve policy`: actions are compared under the same random numbers, and the policy moves to the better ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv
from toy_learner import LEARNER, untrained_policy

from worldmodel.cli import command_line as cli
from worldmodel.collect import policy_improvement, record
from worldmodel.collect.action_comparison import Comparisons, compare_actions
from worldmodel.collect.collect_config import TrainPolicy
from worldmodel.collect.env_options import EnvOptions
from worldmodel.collect.improve_config import ImprovePolicy
from worldmodel.collect.learner_model import new_model, save_model
from worldmodel.collect.policy_evaluation import evaluate
from worldmodel.collect.policy_improvement import fit, improve_policy
from worldmodel.collect.policy_specs import describe_policy_file
from worldmodel.collect.policy_training import train_policy
from worldmodel.common.errors import UserError
from worldmodel.dream import DreamLearnerEnv


class Images(gym.Env):
    """Spaces only."""

    observation_space = gym.spaces.Box(0, 255, (3, 16, 16), np.uint8)
    action_space = gym.spaces.Discrete(3)


def small_model(folder: Path, space: gym.Space | None = None) -> Any:
    env = Images()
    if space is not None:
        env.action_space = space  # type: ignore[assignment]
    learner = replace(LEARNER, num_envs=1, frame_stack=1)
    return new_model(learner, DummyVecEnv([lambda: env]), 0, folder, "cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "toy.h5"
    return record("toy", "sticky", path, episodes=40, size=16, progress=False)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_policy(tmp_path_factory.mktemp("policy"))


def config(policy: Path, data: Path, out: Path, **changes: Any) -> ImprovePolicy:
    fields: dict[str, Any] = {"minutes": 1e-6, "epochs": 1, "num_starts": 64, "num_envs": 20, "backend": "torch"}
    return ImprovePolicy(policy, Path("toy"), (data,), out, **{**fields, **changes})


def test_dreams_of_one_seed_are_alike_until_their_actions_differ(data: Path) -> None:
    dreams = DreamLearnerEnv("toy", 4, frame_stack=2, starts_from=data, num_starts=64)
    first = dreams.reset_with_seeds(np.array([5, 5, 5, 6]))
    assert np.array_equal(first[0], first[2])
    assert not np.array_equal(first[0], first[3])
    rewards = []
    for action in (1, 3, 1, 2):
        observations, reward, *_ = dreams.step(np.array([action, action, 0, action]))
        assert np.array_equal(observations[0], observations[1])
        rewards.append(reward)
    assert np.array_equal(np.array(rewards)[:, 0], np.array(rewards)[:, 1])
    again = dreams.reset_with_seeds(np.array([5, 5, 5, 6]))
    assert np.array_equal(again, first), "a seed begins alike, whatever was dreamed before"


def test_a_comparison_is_a_function_of_its_seed_and_discounts_the_rewards(data: Path, policy: Path) -> None:
    model = policy_improvement.load_model(policy / "policy.zip", "ppo")
    dreams = DreamLearnerEnv("toy", 50, frame_stack=2, starts_from=data, num_starts=64)
    one, again, other = (compare_actions(dreams, model, 3, 0.9, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.returns, again.returns)
    np.testing.assert_array_equal(one.observations, again.observations)
    assert not np.array_equal(one.observations, other.observations)
    assert one.returns.shape == one.probabilities.shape == (10, 5)
    np.testing.assert_allclose(one.probabilities.sum(1), 1, rtol=1e-5)
    single, twice = (compare_actions(dreams, model, decisions, 0.0, 1) for decisions in (1, 4))
    np.testing.assert_array_equal(single.returns, twice.returns)  # with discount 0 the first decision alone counts


class SeededDreams:
    """Rewards are a random number of the row's seed and step, plus the action in the first step; rows end at step 3."""

    action_space = gym.spaces.Discrete(3)
    num_envs = 12

    def reset_with_seeds(self, seeds: np.ndarray) -> np.ndarray:
        self.generators = [np.random.default_rng(seed) for seed in seeds]
        self.time = 0
        return np.zeros((12, 3, 16, 16), np.uint8)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict]]:
        rewards = np.array([generator.normal() for generator in self.generators])
        rewards = rewards + actions * (self.time == 0) + 100.0 * (self.time >= 3)
        self.time += 1
        return np.zeros((12, 3, 16, 16), np.uint8), rewards, np.full(12, self.time == 3), [{}] * 12


def test_what_dreams_of_a_state_share_cancels_in_their_difference(tmp_path: Path) -> None:
    comparisons = compare_actions(SeededDreams(), small_model(tmp_path), 5, 0.9, 0)
    assert len(comparisons) == 4
    np.testing.assert_allclose(comparisons.returns - comparisons.returns[:, :1], [[0, 1, 2]] * 4, atol=1e-5)
    assert np.abs(comparisons.returns).max() < 20, "nothing counts after the end"
    assert comparisons.returns[:, 0].std() > 0.1


def bright_side(num: int, seed: int) -> Comparisons:
    """States whose best action is 1 if the left half is bright and 2 if the right is; returns are very noisy."""
    rng = np.random.default_rng(seed)
    right = rng.random(num) < 0.5
    observations = rng.integers(0, 60, (num, 3, 16, 16), np.uint8)
    observations[right, :, :, 8:] += 150
    observations[~right, :, :, :8] += 150
    returns = rng.normal(0, 1, (num, 3)) + np.stack([0 * right, ~right, right], 1)
    return Comparisons(observations, returns.astype(np.float32), np.full((num, 3), 1 / 3, np.float32))


@pytest.mark.parametrize("mirror", [False, True])
def test_a_fit_finds_the_better_action_through_noise(tmp_path: Path, mirror: bool) -> None:
    torch.manual_seed(0)
    model = small_model(tmp_path)
    parts = [bright_side(200, seed) for seed in range(10)]
    settings = config(tmp_path, tmp_path, tmp_path, epochs=4, batch_size=64, learning_rate=3e-3)
    result = fit(model, parts, settings, np.array([0, 2, 1]) if mirror else None)
    new = bright_side(100, 99)
    probabilities = policy_improvement.action_probabilities(model, new.observations)
    wanted = np.where(new.observations[:, :, :, 8:].mean((1, 2, 3)) > 100, 2, 1)
    assert (probabilities.argmax(1) == wanted).mean() > 0.95
    assert result["states"] == 2000
    assert result["gain"]["low"] > 0.3, "the true gain is 2/3"


def test_a_fit_stays_near_the_old_policy_where_the_weight_says_so(tmp_path: Path) -> None:
    parts = [bright_side(200, seed) for seed in range(4)]
    gains = []
    for weight in (0.0, 100.0):
        torch.manual_seed(0)
        settings = config(tmp_path, tmp_path, tmp_path, epochs=4, batch_size=64, kl_weight=weight)
        gains.append(fit(small_model(tmp_path), parts, settings, None)["gain"]["mean"])
    assert abs(gains[1]) < 0.1 * gains[0]


def test_a_stopped_run_continues_to_the_same_policy(
    data: Path, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_improvement, "BATCHES", 2)
    whole = improve_policy(config(policy, data, tmp_path / "whole"))
    save, saved = Comparisons.save, []

    def stop(self: Comparisons, path: Path, minutes: float) -> None:
        if saved:
            raise KeyboardInterrupt
        saved.append(path)
        save(self, path, minutes)

    monkeypatch.setattr(Comparisons, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        improve_policy(config(policy, data, tmp_path / "stopped"))
    monkeypatch.setattr(Comparisons, "save", save)
    with monkeypatch.context() as changed:
        changed.setattr(policy_improvement, "file_hash", lambda path: "0" * 64)
        with pytest.raises(UserError, match="was begun with another policy"):
            improve_policy(config(policy, data, tmp_path / "stopped"))
    continued = improve_policy(config(policy, data, tmp_path / "stopped"))
    models = [policy_improvement.load_model(path, "ppo").policy.state_dict() for path in (whole, continued)]
    for name, tensor in models[0].items():
        assert torch.equal(tensor, models[1][name]), name
    old = policy_improvement.load_model(policy / "policy.zip", "ppo").policy.state_dict()
    assert any(not torch.equal(tensor, old[name]) for name, tensor in models[0].items())
    assert not (tmp_path / "stopped" / "labels").exists()
    result = json.loads((tmp_path / "stopped" / "policy.json").read_text())["result"]
    assert result["states"] == 16
    with pytest.raises(UserError, match="another run"):
        improve_policy(config(policy, data, tmp_path / "stopped", epochs=2))


def test_the_gain_is_measured_in_episodes_that_were_not_learned_from(
    data: Path, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_improvement, "BATCHES", 2)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    splits: list[str] = []

    class Recorded(DreamLearnerEnv):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.split = options["starts_split"]
            super().__init__(*arguments, **options)

        def reset_with_seeds(self, seeds: np.ndarray) -> np.ndarray:
            splits.append(self.split)
            return super().reset_with_seeds(seeds)

    monkeypatch.setattr("worldmodel.dream.DreamLearnerEnv", Recorded)
    improve_policy(config(policy, data, tmp_path / "out", minutes=60, states=88, backend="torch"))
    assert splits == ["train"] * 2 + ["validation"] * 2 + ["train"] * 18
    assert json.loads((tmp_path / "out" / "policy.json").read_text())["result"]["states"] == 88


def test_what_cannot_be_improved_is_refused(data: Path, policy: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "policy.zip").write_bytes((policy / "policy.zip").read_bytes())
    with pytest.raises(UserError, match=r"wanted a directory with policy\.json"):
        improve_policy(config(bare, data, tmp_path / "out"))
    saved = json.loads((policy / "policy.json").read_text())
    saved["learner"]["algo"] = "dqn"
    (bare / "policy.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match="trained by dqn; wanted a policy of ppo or a2c"):
        improve_policy(config(bare, data, tmp_path / "out"))
    save_model(small_model(tmp_path, gym.spaces.Box(-1, 1, (2,))), tmp_path / "box.zip")
    with pytest.raises(UserError, match=r"is a PPO with actions Box.* wanted PPO or A2C with a Discrete action space"):
        policy_improvement.load_model(tmp_path / "box.zip", "ppo")
    other = replace(LEARNER, frame_stack=3)
    model = new_model(replace(other, num_envs=2), DreamLearnerEnv("toy", 2, frame_stack=3), 0, tmp_path, "cpu")
    save_model(model, bare / "policy.zip")  # whose policy.json has two frames
    (bare / "policy.json").write_text((policy / "policy.json").read_text())
    with pytest.raises(UserError, match=r"observation_space .* give the world of the environment"):
        improve_policy(config(bare, data, tmp_path / "other"))
    with pytest.raises(UserError, match=r"policy .*nowhere: wanted a file or a directory"):
        improve_policy(config(tmp_path / "nowhere", data, tmp_path / "out"))
    for changes, message in (
        ({"decisions": 0}, "decisions=0"),
        ({"start_before_end": 2.0}, "share from 0 to 1"),
        ({"states": 0}, "states=0"),
    ):
        with pytest.raises(UserError, match=message):
            config(policy, data, tmp_path, **changes)


@pytest.mark.slow
def test_an_improved_policy_of_the_toy_is_better_outside(tmp_path: Path) -> None:
    size, base, own = EnvOptions(size=(16, 16)), tmp_path / "base", tmp_path / "own.h5"
    learner = replace(LEARNER, decisions=6_000)
    train_policy(TrainPolicy(base, "toy", 0, size, learner, world=Path("toy"), test_episodes=0))
    record("toy", str(base), own, episodes=120, size=16, progress=False)
    command = [
        "improve",
        "policy",
        str(base),
        "--world",
        "toy",
        "--starts-from",
        str(own),
        "--out",
        str(tmp_path / "new"),
    ]
    lengths = ["--minutes", "60", "--states", "12000", "--decisions", "8", "--epochs", "30", "--num-envs", "160"]
    cli.main([*command, *lengths, "--start-before-end", "0", "--learning-rate", "3e-3", "--kl-weight", "0.05"])
    policies = {name: describe_policy_file(tmp_path / name / "policy.zip") for name in ("new", "base")}
    new, old = (np.asarray(row["returns"]) for row in evaluate(policies, "toy", size.kwargs(), 600, 2_000_000, 1))
    gain = new - old
    assert gain.mean() - 1.96 * gain.std(ddof=1) / len(gain) ** 0.5 > 0
