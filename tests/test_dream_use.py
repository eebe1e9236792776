"""Dreams with SB3's algorithms, gymnasium's wrappers, pickling and all action spaces."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import FrameStackObservation, NormalizeReward, RecordVideo, TimeLimit
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecFrameStack, VecMonitor
from untrained import SIDE, SPACES, make_world

import worldmodel
from worldmodel.collect import record
from worldmodel.collect.policy_evaluation import bootstrap_interval
from worldmodel.dream import DreamEnv, DreamVecEnv, DreamVectorEnv
from worldmodel.train import train_world
from worldmodel.train.presets import PRESETS
from worldmodel.world.world_model import WorldModel

ALGORITHMS: dict[type, dict[str, Any]] = {
    PPO: {"n_steps": 8, "batch_size": 16, "n_epochs": 1},
    A2C: {"n_steps": 4},
    DQN: {"learning_starts": 8, "buffer_size": 100, "batch_size": 8},
    SAC: {"learning_starts": 8, "buffer_size": 100, "batch_size": 8},
}


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda x: x.__name__)
def test_every_algorithm_of_sb3_learns_in_dream_vec_env(algorithm: Any) -> None:
    world = make_world(SPACES["Box" if algorithm is SAC else "Discrete"], hazard=-1.5)
    dreams = VecMonitor(DreamVecEnv(world, 2, horizon=6))
    learner = algorithm("MlpPolicy", dreams, seed=0, **ALGORITHMS[algorithm])
    before = [x.clone() for x in learner.policy.parameters()]
    learner.learn(48)
    assert learner.num_timesteps >= 48
    assert len(learner.ep_info_buffer) > 2
    assert any(not torch.equal(a, b) for a, b in zip(before, learner.policy.parameters(), strict=True))


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("name", SPACES)
def test_every_space_in_every_autoreset_mode_by_id(name: str, mode: AutoresetMode) -> None:
    world = make_world(SPACES[name], hazard=-2.5)
    envs = gym.make_vec(
        worldmodel.DREAM_ID, num_envs=4, vectorization_mode="vector_entry_point", world=world, horizon=4,
        autoreset_mode=mode, starts="any",
    )  # fmt: skip
    assert isinstance(envs.unwrapped, DreamVectorEnv)
    assert envs.metadata["autoreset_mode"] == mode
    envs.action_space.seed(0)
    frames, _ = envs.reset(seed=0)
    terminated = truncated = 0
    for _ in range(16):
        frames, rewards, terminations, truncations, info = envs.step(envs.action_space.sample())
        assert frames in envs.observation_space
        assert np.isfinite(rewards).all()
        done = terminations | truncations
        terminated, truncated = terminated + terminations.sum(), truncated + truncations.sum()
        if mode == AutoresetMode.SAME_STEP and done.any():
            assert [frame is not None for frame in info["final_obs"]] == done.tolist()
        if mode == AutoresetMode.DISABLED and done.any():
            envs.reset(options={"reset_mask": done})
    assert terminated > 0
    assert truncated > 0
    envs.close()


def make_dream(**options: Any) -> gym.Env[Any, Any]:
    return gym.make(worldmodel.DREAM_ID, world=make_world(hazard=-30.0), **options)


def test_gymnasiums_wrappers_around_a_dream() -> None:
    limited = TimeLimit(make_dream(horizon=None), 4)
    limited.reset(seed=0)
    assert [limited.step(1)[2:4] for _ in range(4)] == [(False, False)] * 3 + [(False, True)]
    stacked = FrameStackObservation(make_dream(horizon=None), 3)
    first, _ = stacked.reset(seed=0)
    second = stacked.step(1)[0]
    assert second.shape == (3, SIDE, SIDE, 3)
    np.testing.assert_array_equal(second[:-1], first[1:])
    assert second in stacked.observation_space
    plain, scaled = make_dream(horizon=None), NormalizeReward(make_dream(horizon=None))
    plain.reset(seed=0)
    scaled.reset(seed=0)
    rewards = np.asarray([(plain.step(1)[1], scaled.step(1)[1]) for _ in range(20)])
    assert np.isfinite(rewards).all()
    assert (np.sign(rewards[:, 0]) == np.sign(rewards[:, 1])).all()
    assert not np.allclose(rewards[:, 0], rewards[:, 1])


def test_a_dream_is_recorded_as_a_video(tmp_path: Path) -> None:
    pytest.importorskip("moviepy", reason="gymnasium's RecordVideo needs the package moviepy")
    env = RecordVideo(make_dream(horizon=5, render_mode="rgb_array"), str(tmp_path), episode_trigger=lambda _: True)
    env.reset(seed=0)
    while not env.step(1)[3]:
        pass
    env.close()
    assert [path.suffix for path in tmp_path.iterdir()] == [".mp4"]


def test_interfaces_pickle_render_and_close() -> None:
    world = make_world(hazard=-2.0)
    for env in (DreamEnv(world, render_mode="rgb_array"), DreamVectorEnv(3, world=world, render_mode="rgb_array")):
        first, _ = env.reset(seed=1)
        np.testing.assert_array_equal(np.asarray(env.render()), first)
        env.step(env.action_space.sample())
        copy = pickle.loads(pickle.dumps(env))
        for _ in range(4):
            actions = env.action_space.sample()
            for a, b in zip(env.step(actions)[:4], copy.step(actions)[:4], strict=True):
                np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(np.asarray(env.render()), np.asarray(copy.render()))
        env.close()
        env.close()  # closing twice is allowed
    dreams = DreamVecEnv(world, 2, render_mode="rgb_array")
    dreams.seed(0)
    frames = dreams.reset()
    np.testing.assert_array_equal(np.stack(dreams.get_images()), frames)
    copy = pickle.loads(pickle.dumps(dreams))
    np.testing.assert_array_equal(dreams.step(np.array([1, 2]))[0], copy.step(np.array([1, 2]))[0])
    dreams.close()
    assert DreamEnv(world).render() is None


# -- learning in the toy's dream --------------------------------------------------------------------------


def toy_world(folder: Path, env: str) -> WorldModel:
    """A well trained world of the toy, or of its continuous variant."""
    data = record(
        env, "sticky", folder / "toy.h5", episodes=3000, seed=3, mix_with="random=0.4", size=16, progress=False
    )
    toy = PRESETS["toy"]
    return train_world(data, folder / "world", replace(toy, train_prior=replace(toy.train_prior, validations=0)))


@pytest.fixture(scope="module")
def toy_worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, WorldModel]:
    """The toy's world, with discrete and with continuous actions."""
    torch.set_num_threads(1)
    names = {"Discrete": "toy", "Box": "toy/continuous"}
    return {kind: toy_world(tmp_path_factory.mktemp(kind), env) for kind, env in names.items()}


TRAINING: dict[type, tuple[int, dict[str, Any]]] = {  # decisions, and settings of the algorithm
    PPO: (30_000, {"n_steps": 64, "batch_size": 256, "learning_rate": 1e-3, "gamma": 0.97, "ent_coef": 0.01}),
    A2C: (
        60_000,
        {
            "n_steps": 8, "learning_rate": 1e-3, "gamma": 0.95, "gae_lambda": 0.9, "ent_coef": 0.01,
            "use_rms_prop": False, "normalize_advantage": True,
        },
    ),
    DQN: (
        40_000,
        {
            "learning_starts": 2_000, "buffer_size": 40_000, "batch_size": 128, "learning_rate": 1e-3, "gamma": 0.97,
            "train_freq": 1, "gradient_steps": 4, "target_update_interval": 1_000, "exploration_fraction": 0.4,
        },
    ),
    SAC: (
        10_000,
        {
            "learning_starts": 2_000, "buffer_size": 40_000, "batch_size": 128, "learning_rate": 1e-3, "gamma": 0.9,
            "gradient_steps": 16, "ent_coef": 0.05, "tau": 0.02,
        },
    ),
}  # fmt: skip


def improvement(world: WorldModel, algorithm: Any, seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """Mean return in the dream before and after learning in it, each with its 95 % interval, 100 episodes."""
    decisions, settings = TRAINING[algorithm]

    def dreams(seed: int) -> VecMonitor:
        env = DreamVecEnv(world, 32)
        env.seed(seed)
        return VecMonitor(VecFrameStack(env, 4))

    learner = algorithm("MlpPolicy", dreams(seed), seed=seed, device="cpu", **settings)
    found = {}
    for name in ("before", "after"):
        returns, _ = evaluate_policy(
            learner, dreams(10_000), 100, deterministic=algorithm in (DQN, SAC), return_episode_rewards=True
        )
        found[name] = (float(np.mean(returns)), *bootstrap_interval(np.asarray(returns)))
        if name == "before":
            learner.learn(decisions)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", TRAINING, ids=lambda x: x.__name__)
def test_algorithms_of_sb3_improve_in_the_toys_dream(algorithm: Any, toy_worlds: dict[str, WorldModel]) -> None:
    found = improvement(toy_worlds["Box" if algorithm is SAC else "Discrete"], algorithm)
    assert found["after"][1] > found["before"][2] + 1, found
