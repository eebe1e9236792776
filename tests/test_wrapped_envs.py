"""Environments given as objects, classes and functions: wrappers and arguments take effect or are refused."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces as gym_spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel import envs
from worldmodel.collect import record
from worldmodel.collect.policy_specs import default_cycle
from worldmodel.common.errors import UserError
from worldmodel.common.spaces import Box, check_actions
from worldmodel.data.dataset import Dataset
from worldmodel.envs import as_pixels
from worldmodel.envs.toy import ToyEnv
from worldmodel.envs.wrapped_env import WrappedEnv, inner_action_of
from worldmodel.envs.wrapped_pixel_env import WrappedPixelEnv


def results(env: Any, seed: int, steps: int = 50) -> list[Any]:
    frame, info = env.reset(seed=seed)
    taken: list[Any] = [(frame.tobytes(), info)]
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        frame, *rest = env.step(env.meta.action_space.sample(rng))
        taken.append((frame.tobytes(), *rest))
        if rest[1] or rest[2]:
            break
    return taken


class Inverted(gym.ObservationWrapper):  # type: ignore[type-arg]
    def observation(self, observation: np.ndarray) -> np.ndarray:
        return 255 - observation


class Halved(gym.ObservationWrapper):  # type: ignore[type-arg]
    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.observation_space = gym_spaces.Box(0, 255, (32, 32, 3), np.uint8)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[::2, ::2]


def test_time_limits_and_reward_wrappers_around_a_pixel_env_take_effect() -> None:
    env = gym.wrappers.TransformReward(gym.wrappers.TimeLimit(gym.make("worldmodel/Toy-v0"), 3), lambda r: r - 7.0)
    wrapped = as_pixels(env)
    taken = results(wrapped, 4)
    assert len(taken) == 1 + 3
    assert [step[1] for step in taken[1:]] == [-7.0] * 3
    assert taken[-1][2:4] == (False, True)
    plain = results(envs.make("toy"), 4)
    assert [step[0] for step in taken] == [step[0] for step in plain[:4]], "the seed reaches the environment"
    assert wrapped.meta.max_steps == 3
    assert wrapped.meta.kwargs["wrappers"] == ["TransformReward", "TimeLimit"]
    assert wrapped.meta.variables == envs.make("toy").meta.variables


def test_observation_and_action_wrappers_take_effect() -> None:
    inverted = as_pixels(Inverted(ToyEnv(size=16)))
    plain = results(ToyEnv(size=16), 1)
    assert [step[0] for step in results(inverted, 1)] == [
        (255 - np.frombuffer(s[0], np.uint8)).tobytes() for s in plain
    ]
    halved = as_pixels(Halved(ToyEnv()))
    assert halved.meta.pixels.size == (32, 32)
    np.testing.assert_array_equal(halved.reset(seed=0)[0], ToyEnv().reset(seed=0)[0][::2, ::2])
    rescaled = as_pixels(gym.wrappers.RescaleAction(ToyEnv(continuous=True), np.float32([0, 0]), np.float32([10, 10])))
    rescaled.reset(seed=0)
    twin = ToyEnv(continuous=True)
    twin.reset(seed=0)
    np.testing.assert_array_equal(rescaled.step(np.float32([10, 5]))[0], twin.step(np.float32([1, 0]))[0])


def test_frames_come_from_inside_where_wrappers_return_no_rgb_picture() -> None:
    for wrapper in (
        gym.wrappers.GrayscaleObservation,
        functools.partial(gym.wrappers.FrameStackObservation, stack_size=3),
    ):
        env = as_pixels(wrapper(ToyEnv(size=16)))
        assert isinstance(env, WrappedPixelEnv)
        assert [step[0] for step in results(env, 2)] == [step[0] for step in results(ToyEnv(size=16), 2)]
        assert env.inner_observation_space.contains(env.inner_observation)


def test_wrappers_that_only_check_are_removed() -> None:
    env = ToyEnv()
    assert as_pixels(env) is env
    checked = gym.make("worldmodel/Toy-v0")
    assert as_pixels(checked) is checked.unwrapped


@pytest.mark.parametrize("options", [{"size": 16}, {"max_steps": 2}, {"crop": (0, 8, 0, 8)}, {"frame_skip": 2}])
def test_arguments_of_a_made_pixel_env_are_refused(options: dict[str, Any]) -> None:
    for env in (ToyEnv(), gym.make("worldmodel/Toy-v0"), gym.wrappers.TimeLimit(ToyEnv(), 3), lambda: ToyEnv()):
        with pytest.raises(UserError, match=f"{next(iter(options))}: the environment .* is made already"):
            as_pixels(env, **options)


def test_classes_partials_and_functions_make_environments() -> None:
    assert isinstance(as_pixels(functools.partial(Black, gym_spaces.Discrete(2)), size=8), WrappedEnv)
    assert as_pixels(ToyEnv, size=16, max_steps=None).meta.max_steps is None
    assert as_pixels(functools.partial(ToyEnv, size=np.int64(16))).reset(seed=0)[0].shape == (16, 16, 3)
    for wrong in (lambda: 3, 3, None, gym.make_vec("CartPole-v1", num_envs=2)):
        with pytest.raises(UserError, match="not a gymnasium environment"):
            as_pixels(wrong)


def test_numpy_numbers_are_numbers() -> None:
    size = np.array([16, 24])
    env = ToyEnv(size=size, crop=np.array([0, 8, 0, 8]), max_steps=np.int32(5))  # type: ignore[arg-type]
    assert env.meta == ToyEnv(size=(16, 24), crop=(0, 8, 0, 8), max_steps=5).meta
    assert type(env.meta.max_steps) is int
    for wrong in (2.5, True, "3", np.float64(2)):
        with pytest.raises(UserError, match="max_steps"):
            ToyEnv(max_steps=wrong)  # type: ignore[arg-type]


class Black(gym.Env):  # type: ignore[type-arg]
    """Its action space is given; it stores the actions it gets."""

    observation_space = gym_spaces.Box(0, 255, (8, 8, 3), np.uint8)

    def __init__(self, action_space: gym.Space[Any]) -> None:
        self.action_space, self.actions = action_space, []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.low, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.actions.append(action)
        return self.observation_space.low, 0.0, False, False, {}


@settings(max_examples=40, deadline=None)
@given(low=st.floats(-1e5, 1e5), width=st.floats(0.1, 1e6), seed=st.integers(0, 99))
def test_float64_bounds_contain_every_sample(low: float, width: float, seed: int) -> None:
    space = gym_spaces.Box(low, low + width, (3,), np.float64)
    env = as_pixels(Black(space), size=8)
    env.reset(seed=0)
    rng = np.random.default_rng(seed)
    for _ in range(10):
        action = env.meta.action_space.sample(rng)
        env.step(action)
        done = env.inner.actions[-1]
        assert done.dtype == np.float64
        np.testing.assert_array_equal(done.astype(np.float32), action, err_msg="what is stored is what was done")


bounds = st.one_of(st.none(), st.floats(-1e4, 1e4))
action_spaces = st.one_of(
    st.integers(1, 6).map(gym_spaces.Discrete),
    st.lists(st.integers(1, 5), min_size=1, max_size=3).map(gym_spaces.MultiDiscrete),
    st.integers(1, 4).map(gym_spaces.MultiBinary),
    st.builds(
        lambda low, width, dtype: gym_spaces.Box(
            np.full(2, -np.inf if low is None else low),
            np.full(2, np.inf if width is None else (low or 0.0) + abs(width) + 0.01),
            dtype=dtype,
        ),
        bounds,
        bounds,
        st.sampled_from([np.float32, np.float64]),
    ),
)


@settings(max_examples=40, deadline=None)
@given(space=action_spaces, policy=st.sampled_from(["random", "sticky", "periodic:2"]), seed=st.integers(0, 99))
def test_recorded_actions_are_those_that_the_environment_got(space: gym.Space[Any], policy: str, seed: int) -> None:
    inner = Black(space)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.h5")
        record(inner, policy, path, episodes=2, size=8, max_steps=9, seed=seed, epsilon=0.2, progress=False)
        with Dataset(path) as data:
            recorded = np.concatenate([data.episode(e).actions for e in range(2)])
    assert all(space.contains(action) for action in inner.actions)
    np.testing.assert_array_equal(recorded, np.asarray(inner.actions).astype(recorded.dtype))


@pytest.mark.parametrize("low", [None, -3.0, 0.0, 5.0])
@pytest.mark.parametrize("high", [None, -2.0, 0.5, 7.0])
def test_default_cycle_of_a_box_is_inside_its_bounds(low: float | None, high: float | None) -> None:
    if low is not None and high is not None and low > high:
        return
    space = Box((low,), (high,))
    cycle = default_cycle(space)
    check_actions(space, cycle)
    assert cycle[0] != cycle[1]


def test_an_action_that_the_inner_space_does_not_contain_is_refused() -> None:
    with pytest.raises(UserError, match="has integers only"):
        inner_action_of(np.float32([0.5]), gym_spaces.Box(0, 10, (1,), np.int32))
    assert inner_action_of(np.float32([3]), gym_spaces.Box(0, 10, (1,), np.int32)).dtype == np.int32
    with pytest.raises(UserError, match="outside the environment's action space"):
        inner_action_of(np.array([7]), gym_spaces.MultiDiscrete([3]))


def test_vizdooms_own_environments_repeat_the_last_valid_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vizdoom")
    import vizdoom.gymnasium_wrapper  # noqa: F401

    monkeypatch.chdir(tmp_path)  # the engine writes _vizdoom.ini into the working directory
    env = as_pixels(lambda: gym.make("VizdoomTakeCover-v1", render_mode="rgb_array", frame_skip=8), max_steps=500)
    frame, info = env.reset(seed=0)
    assert info["frame_valid"]
    terminated = False
    while not terminated:
        last = frame
        frame, _, terminated, _, info = env.step(0)
    assert info["frame_valid"] is False
    np.testing.assert_array_equal(frame, last)
    assert frame.max() > 0
    env.close()
