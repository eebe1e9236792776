"""Policies that play: scripted ones, Stable-Baselines3 files, and anything callable.

A policy sees frames (H, W, 3) uint8 and gives actions of the world's space. All its randomness comes from the
generator handed to `begin`, so that an episode is a pure function of its seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from worldmodel.collect.collect_config import LearnerConfig
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import FrameStack
from worldmodel.common.spaces import Space

STICK = 0.85  # probability that `sticky` keeps its action, so that it holds one for 7 steps on average
PERIOD = 32  # steps of each run of `periodic`


class Policy(Protocol):
    """What plays an episode."""

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode; all randomness of the episode comes from `rng`."""

    def act(self, frame: np.ndarray) -> Any:
        """The action for the frame (H, W, 3) uint8 that is shown now."""


class RandomPolicy:
    """Every step a uniform action."""

    def __init__(self, space: Space) -> None:
        self.space = space

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode."""
        self.rng = rng

    def act(self, frame: np.ndarray) -> np.ndarray:
        """A uniform action."""
        return self.space.sample(self.rng)


class StickyPolicy(RandomPolicy):
    """Keeps its action with probability `stick`, else draws a uniform one: long moves, as people make."""

    def __init__(self, space: Space, stick: float = STICK) -> None:
        super().__init__(space)
        self.stick = stick
        self.action: np.ndarray | None = None

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode."""
        self.rng, self.action = rng, None

    def act(self, frame: np.ndarray) -> np.ndarray:
        """The last action or a new one."""
        if self.action is None or self.rng.random() >= self.stick:
            self.action = self.space.sample(self.rng)
        return self.action


class PeriodicPolicy:
    """Blind: a fixed cycle of actions, each held for `period` steps, the first run half as long.

    The order of the cycle is drawn once an episode. On take-cover, left and right in runs of about 32 steps outlive
    every reactive policy but the best: a rival that any claim must beat.
    """

    def __init__(self, actions: list[Any], period: int = PERIOD) -> None:
        if period < 1 or not actions:
            raise UserError(f"periodic: got period {period} and {len(actions)} actions, wanted at least 1 of each.")
        self.actions, self.period = actions, period

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode: draw where in the cycle it begins."""
        self.offset, self.step = int(rng.integers(len(self.actions))), 0

    def act(self, frame: np.ndarray) -> Any:
        """The action of this moment, whatever is seen."""
        run = (self.step + (self.period + 1) // 2) // self.period
        self.step += 1
        return self.actions[(run + self.offset) % len(self.actions)]


class CallablePolicy:
    """Any function frame -> action."""

    def __init__(self, function: Callable[[np.ndarray], Any]) -> None:
        self.function = function

    def begin(self, rng: np.random.Generator) -> None:
        """Nothing to do."""

    def act(self, frame: np.ndarray) -> Any:
        """What the function says."""
        return self.function(frame)


class LearnedPolicy:
    """A Stable-Baselines3 model, seeing and acting as it was trained: frame stack, view, held actions."""

    def __init__(self, model: Any, learner: LearnerConfig, deterministic: bool = False) -> None:
        self.model, self.learner, self.deterministic = model, learner, deterministic
        self.stack = FrameStack(learner.frame_stack)

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode; seeds torch from `rng`, since SB3 draws its actions there."""
        import torch

        torch.manual_seed(int(rng.integers(2**31)))
        self.step = 0

    def act(self, frame: np.ndarray) -> Any:
        """A new action every `hold` steps."""
        if self.learner.view is not None:
            top, bottom, left, right = self.learner.view
            frame = frame[top:bottom, left:right]
        seen = self.stack.reset(frame) if self.step == 0 else self.stack.push(frame)
        if self.step % self.learner.hold == 0:
            self.action, _ = self.model.predict(seen, deterministic=self.deterministic)
        self.step += 1
        return self.action


class NoisyPolicy:
    """Another policy with a share of uniform random steps."""

    def __init__(self, inner: Policy, space: Space, epsilon: float) -> None:
        self.inner, self.space, self.epsilon = inner, space, epsilon

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode."""
        self.rng = np.random.default_rng(rng.integers(2**63))
        self.inner.begin(rng)

    def act(self, frame: np.ndarray) -> Any:
        """The inner policy's action, or with probability `epsilon` a uniform one."""
        action = self.inner.act(frame)
        return self.space.sample(self.rng) if self.rng.random() < self.epsilon else action
