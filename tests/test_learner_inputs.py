"""What a learner gets, in environments and in dreams alike: mirrored episodes and the last action."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from slider import SLIDER, SliderEnv
from untrained import SPACES, make_world

from worldmodel.collect.learned_policy import model_policy
from worldmodel.collect.learner_config import LearnerConfig
from worldmodel.collect.learner_view import LearnerView, SmallEncoder
from worldmodel.common import spaces
from worldmodel.common.action_planes import ActionPlanes
from worldmodel.common.errors import UserError
from worldmodel.common.mirroring import declare_mirror
from worldmodel.dream import DreamLearnerEnv

LABELS = ("stay", "left", "right")
MIRRORED = np.array([0, 2, 1])  # by action


@pytest.fixture(autouse=True)
def declared() -> Iterator[None]:
    """The slider and the untrained world declare mirrors during a test."""
    for env in (SLIDER.id, "test/Untrained-v0"):
        declare_mirror(env, SLIDER.mirror)
    yield
    for env in (SLIDER.id, "test/Untrained-v0"):
        declare_mirror(env, None)


def labelled_world() -> Any:
    world = make_world()
    world.spec = replace(world.spec, action_labels=LABELS)
    return world


# -- mirrored episodes -------------------------------------------------------------------------------------


def test_a_mirrored_episode_shows_flipped_frames_and_takes_mirrored_actions() -> None:
    learner = LearnerConfig(frame_stack=1, mirror=True)
    view, plain = LearnerView(SliderEnv(), learner), SliderEnv()  # type: ignore[arg-type]
    found = set()
    for seed in range(12):
        observation, _ = view.reset(seed=seed)
        frame, _ = plain.reset(seed=seed)
        found.add(view.mirrored)
        for action in (1, 2, 0, 1):
            np.testing.assert_array_equal(observation, frame[:, ::-1] if view.mirrored else frame)
            observation, *_ = view.step(action)
            frame, *_ = plain.step(MIRRORED[action] if view.mirrored else action)
        again, _ = view.reset(seed=seed)
        np.testing.assert_array_equal(again, LearnerView(SliderEnv(), learner).reset(seed=seed)[0])  # type: ignore[arg-type]
    assert found == {True, False}


def test_mirrored_dreams_are_the_plain_dreams_of_mirrored_actions() -> None:
    world = labelled_world()
    mirrored, plain = (DreamLearnerEnv(world, 16, seed=3, hold=2, mirror=mirror) for mirror in (True, False))
    observations, frames = mirrored.reset(), plain.reset()
    rng, finished = np.random.default_rng(0), 0
    for _ in range(25):
        flipped = mirrored.venv.mirrored.copy()
        assert 0 < flipped.sum() < 16
        np.testing.assert_array_equal(observations[~flipped], frames[~flipped])
        np.testing.assert_array_equal(observations[flipped], frames[flipped][..., ::-1])  # (n, 3*D, h, w)
        actions = rng.integers(3, size=16)
        observations, rewards, dones, infos = mirrored.step(actions)
        frames, plain_rewards, plain_dones, plain_infos = plain.step(np.where(flipped, MIRRORED[actions], actions))
        np.testing.assert_array_equal(rewards, plain_rewards)
        np.testing.assert_array_equal(dones, plain_dones)
        for i in np.flatnonzero(dones):
            last, wanted = infos[i]["terminal_observation"], plain_infos[i]["terminal_observation"]
            np.testing.assert_array_equal(last, wanted[..., ::-1] if flipped[i] else wanted)
        finished += dones.sum()
    assert finished > 16


def test_a_mirror_that_is_not_declared_is_refused() -> None:
    declare_mirror("test/Untrained-v0", None)
    with pytest.raises(UserError, match="test/Untrained-v0 does not declare"):
        DreamLearnerEnv(labelled_world(), 2, mirror=True)


# -- the last action ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPACES)
def test_planes_tell_actions_apart_and_no_action_from_all(name: str) -> None:
    space, rng = SPACES[name], np.random.default_rng(0)
    planes = ActionPlanes(space)
    actions = np.stack([space.sample(rng) for _ in range(60)])
    values = planes.encode(actions)
    assert values.shape == (60, planes.count)
    assert values.dtype == np.uint8
    assert values.any(1).all(), "no action is all zeros"
    np.testing.assert_array_equal(values[7], planes.encode(actions[7]))
    assert len(np.unique(values, axis=0)) == len(np.unique(actions, axis=0))
    frames = rng.integers(0, 255, (60, 4, 6, 3), np.uint8)
    observations = planes.append(frames, values)
    np.testing.assert_array_equal(observations[..., :3], frames)
    np.testing.assert_array_equal(observations[:, 3, 5, 3:], values)
    np.testing.assert_array_equal(planes.append_action(frames[7], actions[7]), observations[7])
    assert not planes.append_action(frames[7], None)[..., 3:].any()


def test_actions_without_bounds_have_no_planes() -> None:
    with pytest.raises(UserError, match="needs an action space with bounds"):
        ActionPlanes(spaces.Box((None,), (1.0,)))


class RecordingModel:
    """A model of a policy that keeps its observations."""

    device = torch.device("cpu")

    def __init__(self, space: Any, observation_space: Any, actions: list[int]) -> None:
        self.action_space, self.observation_space, self.actions = space, observation_space, iter(actions)
        self.observations: list[np.ndarray] = []

    def predict(self, observation: np.ndarray, deterministic: bool) -> tuple[int, None]:
        self.observations.append(observation.copy())
        return next(self.actions), None


@pytest.mark.parametrize("hold", [1, 3])
def test_a_policy_observes_its_last_action_outside_as_in_training(hold: int) -> None:
    learner = LearnerConfig(frame_stack=2, last_action=True, hold=hold)
    decisions = [1, 2, 0, 1]
    view, env = LearnerView(SliderEnv(max_steps=None), learner), SliderEnv(max_steps=None)  # type: ignore[arg-type]
    assert view.observation_space.shape == (16, 16, 2 * 3 + 3)
    wanted = [view.reset(seed=1)[0], *(view.step(action)[0] for action in decisions[:-1])]
    assert [observation[0, 0, 6:].tolist() for observation in wanted] == [
        [0, 0, 0], [0, 255, 0], [0, 0, 255], [255, 0, 0],
    ]  # fmt: skip
    model = RecordingModel(view.action_space, view.observation_space, decisions)
    policy = model_policy(model, env, "a policy", learner)
    policy.begin(np.random.default_rng(0))
    frame, _ = env.reset(seed=1)
    for _ in range(len(decisions) * hold):
        frame, *_ = env.step(policy.act(frame))
    for observed, expected in zip(model.observations, wanted, strict=True):
        np.testing.assert_array_equal(observed, expected)


def test_dreams_show_the_last_action_of_each_row_and_none_after_a_reset() -> None:
    world = labelled_world()
    with_action = DreamLearnerEnv(world, 8, seed=1, last_action=True, mirror=True)
    plain = DreamLearnerEnv(world, 8, seed=1, mirror=True)
    assert with_action.observation_space.shape == (12 + 3, 16, 16)
    observations, frames = with_action.reset(), plain.reset()
    assert not observations[:, 12:].any()
    rng, finished = np.random.default_rng(0), 0
    for _ in range(25):
        actions = rng.integers(3, size=8)
        observations, _, dones, infos = with_action.step(actions)
        frames, *_ = plain.step(actions)
        np.testing.assert_array_equal(observations[:, :12], frames)
        values = np.where(np.arange(3) == actions[:, None], 255, 0)  # as the policy chose, in a mirror too
        np.testing.assert_array_equal(observations[:, 12:, 3, 5], np.where(dones[:, None], 0, values))
        for i in np.flatnonzero(dones):
            np.testing.assert_array_equal(infos[i]["terminal_observation"][12:, 0, 0], values[i])
        finished += dones.sum()
    assert finished > 4


def test_the_encoder_reads_the_planes_and_costs_no_convolutions_for_them() -> None:
    space = SimpleNamespace(shape=(6 + 3, 16, 16))
    encoder = SmallEncoder(space, width=2, features_dim=4, action_planes=3)  # type: ignore[arg-type]
    plain = SmallEncoder(SimpleNamespace(shape=(6, 16, 16)), width=2, features_dim=4)  # type: ignore[arg-type]
    sizes = [sum(p.numel() for p in module.net.parameters()) for module in (encoder, plain)]
    assert sizes[0] == sizes[1]
    torch.nn.init.constant_(encoder.out[0].weight, 1.0)
    observations = torch.rand(1, 9, 16, 16).repeat(2, 1, 1, 1)
    observations[:, 6:] = 0
    observations[1, 7] = 1
    features = encoder(observations)
    assert (features[0] != features[1]).any()
