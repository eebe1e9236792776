"""Stable-Baselines3 models as policies: their observations, and the global state of torch, numpy and random."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO

from worldmodel import envs
from worldmodel.cli import command_line as cli
from worldmodel.collect import record
from worldmodel.collect.global_state import EpisodeGenerator, preserved_global_state
from worldmodel.collect.learned_policy import LearnedPolicy, ModelPolicy, model_policy
from worldmodel.collect.learner_config import LearnerConfig
from worldmodel.collect.policy_specs import describe_policy_file
from worldmodel.common.errors import UserError
from worldmodel.data.dataset import Dataset
from worldmodel.envs import as_pixels

SHORT: dict[str, Any] = {"n_steps": 8, "batch_size": 8, "device": "cpu", "seed": 0}


def cartpole() -> gym.Env:  # type: ignore[type-arg]
    return gym.make("CartPole-v1", render_mode="rgb_array")


@pytest.fixture(scope="module")
def numbers_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that observes the four numbers of CartPole."""
    path = tmp_path_factory.mktemp("numbers") / "cartpole.zip"
    PPO("MlpPolicy", "CartPole-v1", **SHORT).save(path)
    return path


@pytest.fixture(scope="module")
def frames_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("frames") / "toy.zip"
    PPO("MlpPolicy", envs.make("toy", size=16), **SHORT).save(path)
    return path


def test_a_model_of_other_observations_gets_those_of_the_environment(numbers_model: Path, tmp_path: Path) -> None:
    """The recorded actions are those that the model takes on the environment's own observations."""
    model = PPO.load(numbers_model, device="cpu")
    small: dict[str, Any] = {"episodes": 2, "size": 16, "max_steps": 20, "progress": False}
    from_object = record(cartpole(), model, tmp_path / "a.h5", **small)
    from_name = record("CartPole-v1", str(numbers_model), tmp_path / "b.h5", **small)
    in_workers = record(cartpole, numbers_model, tmp_path / "c.h5", workers=2, **small)
    with Dataset(from_object) as a, Dataset(from_name) as b, Dataset(in_workers) as c:
        for e in range(2):
            np.testing.assert_array_equal(a.episode(e).actions, b.episode(e).actions)
            np.testing.assert_array_equal(a.episode(e).actions, c.episode(e).actions)
        episode = a.episode(0)
    env = as_pixels(cartpole(), size=16)
    policy = ModelPolicy(model)
    from worldmodel.collect.rollout import episode_seeds

    seed, rng = episode_seeds(0, 0)
    env.reset(seed=seed)
    policy.begin(rng)
    for action in episode.actions:
        assert env.inner_observation.shape == (4,)
        assert int(policy.act(env.inner_observation)) == action
        env.step(int(action))


def test_a_model_that_fits_neither_frames_nor_observations_is_refused(
    numbers_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = PPO.load(numbers_model, device="cpu")
    for policy in (model, str(numbers_model)):
        with pytest.raises(UserError, match=r"observes Box.*gives frames of shape \(64, 64, 3\) .*observations Box"):
            record(gym.wrappers.FlattenObservation(cartpole_with_two()), policy, tmp_path / "a.h5", progress=False)
    with pytest.raises(UserError, match="acts in Discrete"):
        record("toy", model, tmp_path / "a.h5", progress=False)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["eval", "policy", str(numbers_model), "--env", "toy"])
    assert exit_.value.code == 2
    assert "acts in" in capsys.readouterr().err
    assert not (tmp_path / "a.h5").exists()


def cartpole_with_two() -> gym.Env:  # type: ignore[type-arg]
    """CartPole with eight numbers as observation."""

    class Doubled(gym.ObservationWrapper):  # type: ignore[type-arg]
        def __init__(self, env: Any) -> None:
            super().__init__(env)
            self.observation_space = gym.spaces.Box(-np.inf, np.inf, (8,), np.float32)

        def observation(self, observation: np.ndarray) -> np.ndarray:
            return np.concatenate([observation, observation])

    return Doubled(cartpole())


def test_the_order_of_axes_does_not_depend_on_their_sizes() -> None:
    """Frames of 12 rows with four stacked frames: 12 channels. Channels of models by SB3 are first."""
    env = envs.make("toy", size=16, crop=(0, 8, 0, 16))

    class Model:
        device, action_space = torch.device("cpu"), env.action_space

        def __init__(self, shape: tuple[int, ...]) -> None:
            self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)
            self.seen: list[np.ndarray] = []

        def predict(self, observation: np.ndarray, deterministic: bool = False) -> tuple[int, None]:
            self.seen.append(observation)
            return 0, None

    frame, _ = env.reset(seed=0)
    for shape, axis in (((12, 8, 16), 0), ((8, 16, 12), -1)):
        model = Model(shape)
        policy = model_policy(model, env, "model")
        assert isinstance(policy, LearnedPolicy)
        policy.begin(np.random.default_rng(0))
        policy.act(frame)
        np.testing.assert_array_equal(model.seen[0], np.concatenate([np.moveaxis(frame, -1, axis)] * 4, axis))


def global_state() -> tuple[Any, ...]:
    return (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # type: ignore[index]  # noqa: NPY002
        random.getstate(),
    )


def test_playing_a_policy_file_changes_no_global_state(frames_model: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.set_default_dtype(torch.float64)
        before = global_state()
        path = record("toy", frames_model, tmp_path / "a.h5", episodes=2, size=16, progress=False)
        assert global_state() == before
        torch.set_default_dtype(torch.float32)
        torch.manual_seed(5)
        again = record("toy", frames_model, tmp_path / "b.h5", episodes=2, size=16, progress=False)
        assert path.read_bytes() == again.read_bytes(), "neither does it depend on global state"
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)


def test_a_dqn_policy_explores_with_the_episodes_generator(tmp_path: Path) -> None:
    model = DQN("MlpPolicy", envs.make("toy", size=16), buffer_size=10, device="cpu")
    model.exploration_rate = 0.5
    model.save(tmp_path / "dqn.zip")
    state = np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    a = record("toy", tmp_path / "dqn.zip", tmp_path / "a.h5", episodes=2, size=16, progress=False)
    assert np.random.get_state()[1].tolist() == state  # type: ignore[index]  # noqa: NPY002
    np.random.rand()  # noqa: NPY002
    b = record("toy", tmp_path / "dqn.zip", tmp_path / "b.h5", episodes=2, size=16, progress=False)
    assert a.read_bytes() == b.read_bytes()
    with Dataset(a) as data:
        assert len(np.unique(data.episode(0).actions)) > 1


def test_sb3_block_is_isolated_even_if_it_fails() -> None:
    before = global_state()

    def seed_and_fail() -> None:
        with preserved_global_state():
            torch.manual_seed(0)
            np.random.seed(0)  # noqa: NPY002
            random.seed(0)
            assert torch.get_num_threads() == 1
            raise KeyError

    with pytest.raises(KeyError):
        seed_and_fail()
    assert global_state() == before


def test_an_episode_generator_continues_where_it_stopped() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    generator = EpisodeGenerator(torch.device("cpu"))
    generator.seed(3)
    before = torch.get_rng_state()
    numbers = []
    for _ in range(4):
        with generator.active():
            numbers.append(torch.rand(1))
        torch.rand(7)
    torch.set_rng_state(before)
    assert torch.equal(torch.cat(numbers), expected)


def test_a_file_without_settings_is_played_with_the_frame_stack_of_its_observations(tmp_path: Path) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

    stacked = VecFrameStack(DummyVecEnv([lambda: envs.make("toy", size=16)]), 3)
    PPO("MlpPolicy", stacked, **SHORT).save(tmp_path / "stacked.zip")
    policy = describe_policy_file(tmp_path / "stacked.zip").build(
        envs.make("toy").meta.action_space, envs.make("toy", size=16)
    )
    assert isinstance(policy, LearnedPolicy)
    assert policy.view.frame_stack == 3
    assert LearnerConfig().frame_stack == 4
