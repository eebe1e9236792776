"""What a policy observes: one implementation for single environments and for batches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from untrained import make_world

from worldmodel.collect.learner_config import LearnerConfig
from worldmodel.collect.learner_view import LearnerView
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import FrameStack as ReexportedFrameStack
from worldmodel.common.pixels import PixelSpec
from worldmodel.common.policy_view import FrameStack, PolicyView
from worldmodel.dream import DreamLearnerEnv


def frames_of(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 256, (*shape, 6, 5, 3), dtype=np.uint8)


@settings(max_examples=40, deadline=None)
@given(depth=st.integers(1, 4), rows=st.integers(1, 4), steps=st.integers(1, 8), seed=st.integers(0, 2**16))
def test_rows_of_a_batch_equal_single_stacks(depth: int, rows: int, steps: int, seed: int) -> None:
    """With rows that stay unchanged and rows that restart, in any order."""
    rng = np.random.default_rng(seed)
    batch, singles = FrameStack(depth), [FrameStack(depth) for _ in range(rows)]
    first = frames_of(rng, rows)
    expected = [single.reset(frame) for single, frame in zip(singles, first, strict=True)]
    np.testing.assert_array_equal(batch.reset(first), np.stack(expected))
    for _ in range(steps):
        frames, active = frames_of(rng, rows), rng.random(rows) < 0.6
        before = batch.push(frames, active)
        kept = before.copy()
        for i in np.flatnonzero(active):
            expected[i] = singles[i].push(frames[i])
        np.testing.assert_array_equal(before, np.stack(expected))
        restarted = np.flatnonzero(rng.random(rows) < 0.3)
        frames = frames_of(rng, len(restarted))
        for i, frame in zip(restarted, frames, strict=True):
            expected[i] = singles[i].reset(frame)
        np.testing.assert_array_equal(batch.reset(frames, restarted), np.stack(expected))
        np.testing.assert_array_equal(before, kept, err_msg="a returned array is not changed later")


def test_a_view_is_a_part_of_the_frame() -> None:
    frames = frames_of(np.random.default_rng(0), 2)
    view = PolicyView((6, 5, 3), 4, (1, 4, 0, 5))
    assert view.shape == (3, 5, 12)
    np.testing.assert_array_equal(view.crop(frames), frames[:, 1:4])
    np.testing.assert_array_equal(view.crop(frames[0]), frames[0, 1:4])
    assert PolicyView((6, 5, 3)).shape == (6, 5, 3)
    shifted = PolicyView((6, 5, 3), 2, (21, 24, 10, 12), origin=(20, 10))
    assert shifted.slices == (slice(1, 4), slice(0, 2))
    assert shifted.shape == (3, 2, 6)


@pytest.mark.parametrize("view", [(0, 7, 0, 5), (-1, 3, 0, 5), (3, 3, 0, 5), (0, 6, 2, 6), (0, 6, 4, 2)])
def test_a_view_outside_of_the_frame_is_refused(view: tuple[int, int, int, int]) -> None:
    with pytest.raises(UserError, match=r"learner\.view=.*rows 0 to 6 and columns 0 to 5"):
        PolicyView((6, 5, 3), 1, view, name="learner.view")
    with pytest.raises(UserError, match="rows 20 to 26"):
        PolicyView((6, 5, 3), 1, view, origin=(20, 0))


def test_wrong_use_raises_a_sentence() -> None:
    with pytest.raises(UserError, match="wanted at least 1"):
        PolicyView((6, 5, 3), 0)
    with pytest.raises(UserError, match="depth=0"):
        FrameStack(0)
    with pytest.raises(UserError, match="call reset"):
        FrameStack(2).push(np.zeros((2, 2, 3), np.uint8))
    assert ReexportedFrameStack is FrameStack


@pytest.mark.parametrize(("reward", "wanted"), [("health", [0.0, -0.3, -0.3]), ("health_change", [0.1, -0.3, -0.3])])
def test_a_learner_can_be_rewarded_for_the_health_it_keeps(reward: str, wanted: list[float]) -> None:
    healths = iter([50.0, 60.0, 30.0, 30.0])  # the last one repeats: the episode terminated, so all health is lost

    class Hurt(gym.Env[np.ndarray, int]):
        observation_space = gym.spaces.Box(0, 255, (4, 4, 3), np.uint8)
        action_space = gym.spaces.Discrete(2)
        meta = SimpleNamespace(pixels=PixelSpec((4, 4)), variables=("health",))

        def _info(self) -> dict[str, Any]:
            return {"variables": {"health": next(healths)}}

        def reset(self, **kwargs: Any) -> Any:
            return np.zeros((4, 4, 3), np.uint8), self._info()

        def step(self, action: int) -> Any:
            info = self._info()
            self.steps = getattr(self, "steps", 0) + 1
            return np.zeros((4, 4, 3), np.uint8), 9.0, self.steps == 3, False, info

    view = LearnerView(Hurt(), LearnerConfig(reward=reward))  # type: ignore[arg-type]
    view.reset()
    assert [view.step(0)[1] for _ in range(3)] == pytest.approx(wanted)


def test_a_dream_rewards_the_expected_change_of_the_hidden_variable() -> None:
    world = make_world()
    loss, change = (DreamLearnerEnv(world, 8, reward=reward, seed=1) for reward in ("status", "status_change"))
    loss.reset(), change.reset()
    rewards = [(loss.step(np.full(8, a))[1], change.step(np.full(8, a))[1]) for a in (0, 1, 2, 1)]
    for kept, signed in rewards:
        np.testing.assert_array_equal(kept, np.minimum(signed, 0))
    assert (np.stack([signed for _, signed in rewards]) > 0).any()
