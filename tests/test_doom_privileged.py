"""Privileged state of Doom environments, and the scripted policies that use it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vizdoom")

from worldmodel import envs
from worldmodel.collect.policy_specs import parse_policy
from worldmodel.common.errors import UserError
from worldmodel.envs.doom_policies import bearing_and_distance

SCRIPTED = [
    ("doom/take-cover", "dodger"),
    ("doom/health-gathering", "seeker"),
    ("doom/health-gathering-supreme", "seeker"),
    ("doom/battle", "fighter"),
    ("doom/battle2", "fighter"),
]


@pytest.fixture(scope="module")
def privileged() -> Iterator[Any]:
    env = envs.make("doom/health-gathering")
    env.enable_privileged_state()
    yield env
    env.close()


def build(env: Any, name: str) -> Any:
    space = env.meta.action_space
    return parse_policy(name, space, envs.policy_defaults(env.meta.id)).build(space, env)


def make_or_skip(name: str) -> Any:
    try:
        return envs.make(name)
    except UserError as error:
        if "could not be fetched" in str(error):
            pytest.skip(f"the map of {name} cannot be fetched here")
        raise


def play(env: Any, policy: Any, seed: int, steps: int) -> list[Any]:
    frame, info = env.reset(seed=seed)
    policy.begin(np.random.default_rng(seed))
    results: list[Any] = [(frame.tobytes(), info)]
    for _ in range(steps):
        frame, *rest = env.step(policy.act(frame))
        results.append((frame.tobytes(), *rest))
        if rest[1] or rest[2]:
            break
    return results


@pytest.mark.parametrize("name", ["doom/take-cover", "doom/health-gathering"])
def test_frames_are_the_same_with_and_without_privileged_state(name: str) -> None:
    env = envs.make(name)
    policy = build(env, "random")
    without = play(env, policy, 3, 20)
    env.enable_privileged_state()
    assert play(env, policy, 3, 20) == without
    assert set(without[0][1]) == {"frame_valid", "variables"}
    env.close()


def test_labels_are_in_pixels_of_the_frame(privileged: Any) -> None:
    """A medikit's label is where its position projects to: the field of view is 90 degrees."""
    privileged.reset(seed=1)
    state = privileged.privileged_state()
    medikits = [label for label in state["labels"] if label["name"] == "Medikit"]
    assert len(medikits) > 3
    for label in medikits:
        bearing, _ = bearing_and_distance(state, label["position"])
        assert label["column"] == pytest.approx(32 - 32 * np.tan(np.radians(bearing)), abs=1.5)
        assert 28 < label["row"] < 64, "medikits lie on the floor"
        assert {"id", "height", "width", "velocity", "category"} <= set(label)
    assert state["depth"].shape == (64, 64)
    assert state["depth"].dtype == np.uint8
    assert {item["name"] for item in state["objects"]} >= {"Medikit", "DoomPlayer"}
    assert set(state["variables"]) == {"health"}
    assert len(state["position"]) == len(state["velocity"]) == 3
    assert 0 <= state["angle"] <= 360


def test_labels_move_with_the_crop() -> None:
    env = envs.make("doom/take-cover", crop=(20, 52, 8, 64))
    env.enable_privileged_state()
    env.reset(seed=2)
    state = env.privileged_state()
    assert state["depth"].shape == env.observation_space.shape[:2]
    imps = [label for label in state["labels"] if label["name"] == "DoomImp"]
    assert all(5 < label["row"] < 20 for label in imps)
    env.close()


def test_privileged_state_must_be_enabled_before_the_reset(privileged: Any) -> None:
    env = envs.make("doom/take-cover")
    with pytest.raises(UserError, match="call reset"):
        env.privileged_state()
    env.reset(seed=0)
    with pytest.raises(UserError, match=r"call enable_privileged_state\(\) before reset"):
        env.privileged_state()
    env.close()


@pytest.mark.parametrize(("name", "policy"), [SCRIPTED[0], SCRIPTED[2], SCRIPTED[4]])
def test_scripted_policies_are_reproducible_from_the_seed(name: str, policy: str) -> None:
    env = make_or_skip(name)
    first = play(env, build(env, policy), 5, 20)
    assert play(env, build(env, policy), 5, 20) == first
    env.close()


def test_a_scripted_policy_refuses_other_environments() -> None:
    from worldmodel.envs.doom_policies import Fighter, FireballDodger, MedikitSeeker

    env = envs.make("doom/basic")
    for policy in (MedikitSeeker, FireballDodger, Fighter):
        if policy is FireballDodger:  # it needs left, right and noop only
            policy(env.meta.action_space, env)
            continue
        with pytest.raises(UserError, match="plays"):
            policy(env.meta.action_space, env)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "policy"), SCRIPTED)
def test_scripted_policies_are_better_than_random_play(name: str, policy: str) -> None:
    env = make_or_skip(name)

    def returns(player: Any) -> np.ndarray:
        episodes = [play(env, player, seed, 525) for seed in range(2000, 2015)]
        return np.array([sum(step[1] for step in episode[1:]) for episode in episodes])

    assert returns(build(env, policy)).mean() > 1.5 * returns(build(env, "random")).mean()
    env.close()
