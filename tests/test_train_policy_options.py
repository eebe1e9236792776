"""Options of `train policy`: initial weights, schedule, normalized rewards, evaluation during training."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO

from worldmodel.collect.collect_config import TrainPolicy
from worldmodel.collect.env_options import EnvOptions
from worldmodel.collect.learner_config import LearnerConfig
from worldmodel.collect.learner_model import LinearSchedule, new_model, save_model
from worldmodel.collect.policy_files import file_hash
from worldmodel.collect.policy_training import train_policy
from worldmodel.collect.policy_validation import VALIDATION_SEED
from worldmodel.common.config_upgrades import upgrade_config
from worldmodel.common.errors import UserError

TINY = LearnerConfig(
    decisions=32, num_envs=2, rollout_steps=8, batch_size=16, epochs=1, frame_stack=2, width=2, algo="ppo"
)
SMALL_FRAMES = EnvOptions(size=(16, 16))


def config(out: Path, learner: LearnerConfig = TINY, **options: Any) -> TrainPolicy:
    return TrainPolicy(out, "toy", 0, SMALL_FRAMES, learner, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training with normalized rewards, a linear schedule and evaluations."""
    learner = replace(TINY, normalize_reward=True, schedule="linear", gae_lambda=0.9, clip_range=0.1)
    out = tmp_path_factory.mktemp("policy") / "first"
    train_policy(config(out, learner, eval_every=1e-6, eval_episodes=3, keep="best"))
    return out


def test_evaluations_during_training_are_recorded_and_the_best_policy_is_kept(finished: Path) -> None:
    rows = [json.loads(line) for line in (finished / "curve.jsonl").read_text().splitlines()]
    validated = [row for row in rows if "validation_mean" in row]
    assert len(validated) >= 2
    assert validated[-1]["decisions"] == 32
    best = max(validated, key=lambda row: row["validation_mean"])
    saved = json.loads((finished / "policy.json").read_text())["best"]
    assert (saved["validation_mean"], saved["decisions"]) == (best["validation_mean"], best["decisions"])
    assert saved["validation_episodes"] == 3
    assert (finished / "policy.zip").read_bytes() == (finished / "best.zip").read_bytes()
    assert PPO.load(finished / "policy.zip").num_timesteps == best["decisions"]
    assert VALIDATION_SEED == 2_000_000


def test_settings_reach_the_algorithm(finished: Path) -> None:
    model = PPO.load(finished / "policy.zip")
    assert (model.gae_lambda, model.clip_range(1.0), model.vf_coef, model.max_grad_norm) == (0.9, 0.1, 0.5, 0.5)
    assert model.reward_statistics["count"] > 1
    assert model.lr_schedule(0.5) == pytest.approx(1.5e-4)
    venv = gymnasium_venv()
    for algo, gae_lambda in (("ppo", 0.95), ("a2c", 1.0)):
        defaults: Any = {"ppo": PPO, "a2c": A2C}[algo]("MlpPolicy", "CartPole-v1")
        made = new_model(replace(TINY, algo=algo), venv, 0, Path("unused"), "cpu")
        assert made.gae_lambda == gae_lambda
        for name in ("gae_lambda", "vf_coef", "max_grad_norm"):
            assert getattr(made, name) == getattr(defaults, name), "SB3's default"
    assert new_model(TINY, venv, 0, Path("unused"), "cpu").clip_range(1.0) == 0.2


def gymnasium_venv(shape: tuple[int, int, int] = (6, 16, 16), actions: int = 5) -> Any:
    """Environments with observations of one shape, which nothing steps."""
    from stable_baselines3.common.vec_env import DummyVecEnv

    class Pictures(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        action_space = gymnasium.spaces.Discrete(actions)

    return DummyVecEnv([Pictures] * 2)


def test_a_linear_schedule_ends_at_0_with_the_first_budget_that_ends() -> None:
    schedule = LinearSchedule(2.0, None)
    assert [schedule(share) for share in (1.0, 0.25, 0.0)] == [2.0, 0.5, 0.0]
    schedule = LinearSchedule(2.0, 10.0)
    schedule.minutes_so_far = 7.5
    assert [schedule(share) for share in (1.0, 0.25, 0.1)] == [0.5, 0.5, 0.2]
    schedule.minutes_so_far = 11.0
    assert schedule(0.5) == 0.0


def test_a_stopped_training_continues_its_schedule_and_reward_scale_and_ignores_init_from(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source.zip"
    shutil.copyfile(finished / "policy.zip", source)
    learner = replace(TINY, normalize_reward=True, schedule="linear", decisions=48, checkpoint_seconds=0.0)
    run = config(tmp_path / "run", learner, init_from=source)
    rates: list[float] = []
    train = PPO.train

    def stop_in_second_update(self: PPO) -> None:
        if len(rates) == 1:
            raise KeyboardInterrupt
        train(self)
        rates.append(self.policy.optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(PPO, "train", stop_in_second_update)
    with pytest.raises(KeyboardInterrupt):
        train_policy(run)
    saved = PPO.load(run.out / "checkpoint.zip")
    assert saved.num_timesteps == 32
    source.unlink()
    counts: list[float] = []

    def observe(self: PPO) -> None:
        train(self)
        rates.append(self.policy.optimizer.param_groups[0]["lr"])
        counts.append(self.get_vec_normalize_env().ret_rms.count)

    monkeypatch.setattr(PPO, "train", observe)
    train_policy(run)
    assert rates == pytest.approx([2e-4, 0.0])
    assert counts == [pytest.approx(saved.reward_statistics["count"] + 16)]


def test_weights_and_optimizer_of_another_training_are_the_first_ones(tmp_path: Path) -> None:
    learner = replace(TINY, decisions=16, learning_rate=1e-12)
    first = train_policy(config(tmp_path / "first"))
    path = train_policy(config(tmp_path / "second", learner, init_from=first.parent))
    source, model = PPO.load(first), PPO.load(path)
    for name, tensor in source.policy.state_dict().items():
        torch.testing.assert_close(model.policy.state_dict()[name], tensor, atol=1e-7, rtol=0)
    steps = [int(next(iter(m.policy.optimizer.state_dict()["state"].values()))["step"]) for m in (source, model)]
    assert steps[1] == steps[0] + 1
    assert model.num_timesteps == 16
    for file in ("policy.json", "run.json"):
        saved = json.loads((path.parent / file).read_text())
        digest = saved["init_from"]["sha256"] if file == "policy.json" else saved["init_from_sha256"]
        assert digest == file_hash(first)
    venv = gymnasium_venv()
    other = new_model(replace(TINY, algo="a2c"), venv, 0, tmp_path, "cpu")
    save_model(other, tmp_path / "a2c.zip")
    path = train_policy(config(tmp_path / "third", learner, init_from=tmp_path / "a2c.zip"))
    for name, tensor in other.policy.state_dict().items():  # the weights alone: A2C has another optimizer
        torch.testing.assert_close(PPO.load(path).policy.state_dict()[name], tensor, atol=1e-7, rtol=0)


def test_initial_weights_that_do_not_fit_are_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"init-from .*nothing"):
        train_policy(config(tmp_path / "x", init_from=tmp_path / "nothing.zip"))
    cases = (
        ({"frame_stack": 1}, "observation space"),
        ({"width": 4}, "another network"),
    )
    for changes, words in cases:
        with pytest.raises(UserError, match=words):
            train_policy(config(tmp_path / "x", replace(TINY, **changes), init_from=finished))
        assert not (tmp_path / "x" / "run.json").exists()
    with pytest.raises(UserError, match="action space"):
        train_policy(TrainPolicy(tmp_path / "x", "toy/continuous", 0, SMALL_FRAMES, TINY, init_from=finished))


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"eval_every": 0.0}, "eval_every"), ({"eval_episodes": 1}, "eval_episodes"), ({"keep": "best"}, "eval-every")],
)
def test_evaluation_settings_out_of_range_are_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        config(tmp_path / "x", **changes)


def test_a_run_of_an_earlier_version_is_the_same_run(tmp_path: Path) -> None:
    saved = {"test_episodes": 100, "learner": {"algo": "ppo"}}
    upgraded = upgrade_config(saved)
    assert upgraded["learner"]["schedule"] == "constant"
    assert upgraded["keep"] == "last"
    assert "keep" not in upgrade_config({"learner": {"algo": "ppo"}}), "of `collect`"


class Levers(gymnasium.Env):
    """Two levers with two and three positions; the picture shows which pair earns a reward."""

    observation_space = gymnasium.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gymnasium.spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 8
        return self._picture(), {}

    def _picture(self) -> np.ndarray:
        self.target = (int(self.np_random.integers(2)), int(self.np_random.integers(3)))
        picture = np.zeros((16, 16, 3), np.uint8)
        picture[8 * self.target[0] : 8 * self.target[0] + 8, 5 * self.target[1] : 5 * self.target[1] + 6] = 255
        return picture

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = float(np.mean([a == b for a, b in zip(action, self.target, strict=True)]))
        self.left -= 1
        return self._picture(), reward, False, self.left == 0, {}


def test_ppo_trains_and_plays_with_a_multi_discrete_action_space(tmp_path: Path) -> None:
    from worldmodel.collect.policy_evaluation import play_returns
    from worldmodel.collect.policy_specs import describe_policy_file

    gymnasium.register("Local/Levers-v0", entry_point=f"{__name__}:Levers")
    try:
        learner = replace(TINY, decisions=64, frame_stack=1)
        path = train_policy(TrainPolicy(tmp_path / "levers", "Local/Levers-v0", 0, SMALL_FRAMES, learner))
        returns = play_returns("Local/Levers-v0", SMALL_FRAMES.kwargs(), describe_policy_file(path), [1, 2])
        assert [steps for _, steps in returns] == [8, 8]
    finally:
        del gymnasium.registry["Local/Levers-v0"]


def test_evaluations_do_not_change_the_training(finished: Path, tmp_path: Path) -> None:
    learner = replace(TINY, normalize_reward=True, schedule="linear", gae_lambda=0.9, clip_range=0.1)
    last = train_policy(config(tmp_path / "plain", learner))
    evaluated = train_policy(config(tmp_path / "evaluated", learner, eval_every=1e-6, eval_episodes=2))
    for a, b in zip(PPO.load(last).policy.parameters(), PPO.load(evaluated).policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_policy_is_evaluated_in_dreams_of_validation_seeds(tmp_path: Path) -> None:
    run = TrainPolicy(
        tmp_path / "p", "", 0, SMALL_FRAMES, TINY, world=Path("toy"), test_episodes=0, eval_every=9, eval_episodes=2
    )
    train_policy(run)
    rows = [json.loads(line) for line in (run.out / "curve.jsonl").read_text().splitlines()]
    assert rows[-1]["validation_episodes"] == 2
