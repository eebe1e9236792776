"""Policies: the interface, scripted policies, and functions.

A policy maps frames (H, W, 3) uint8 to actions of the environment's action space. All its randomness comes from the
generator that `begin` receives, so an episode is a pure function of its seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from worldmodel.common.errors import UserError
from worldmodel.common.spaces import Space

STICK = 0.85  # probability that `sticky` repeats its action: 7 steps per action on average
PERIOD = 32  # steps per action of `periodic`


class Policy(Protocol):
    """Interface of a policy.

    A policy whose attribute `uses_inner_observation` is True gets `PixelEnv.inner_observation` instead of the frame.
    One whose attribute `uses_privileged_state` is True needs the environment itself, so it cannot act in a dream.
    """

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode; all randomness of the episode comes from `rng`."""

    def act(self, frame: np.ndarray) -> Any:
        """The action for the current frame (H, W, 3) uint8."""


class RandomPolicy:
    """A uniform random action in every step."""

    def __init__(self, space: Space) -> None:
        self.space = space

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode."""
        self.rng = rng

    def act(self, frame: np.ndarray) -> np.ndarray:
        """A uniform random action."""
        return self.space.sample(self.rng)


class StickyPolicy(RandomPolicy):
    """Repeats its action with probability `stick`, else samples a uniform one. Moves are long, like those of people."""

    def __init__(self, space: Space, stick: float = STICK) -> None:
        super().__init__(space)
        self.stick = stick
        self.action: np.ndarray | None = None

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode."""
        self.rng, self.action = rng, None

    def act(self, frame: np.ndarray) -> np.ndarray:
        """The last action, or a new one."""
        if self.action is None or self.rng.random() >= self.stick:
            self.action = self.space.sample(self.rng)
        return self.action


class PeriodicPolicy:
    """Open-loop: a fixed cycle of actions, each repeated for `period` steps, the first for half as many.

    The first action of the cycle is sampled once per episode. On take-cover, left and right for about 32 steps each
    survive longer than every reactive policy but the best, so this is the baseline to beat.

    Args:
        actions: the cycle.
        period: steps per action.
        periods: if not empty, each episode samples its period from these.
    """

    def __init__(self, actions: list[Any], period: int = PERIOD, periods: Sequence[int] = ()) -> None:
        if min((period, *periods)) < 1 or not actions:
            least = min((period, *periods))
            raise UserError(f"periodic: got period {least} and {len(actions)} actions, wanted at least 1 of each.")
        self.actions, self.period, self.periods = actions, period, periods

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode: sample the first action of the cycle, and the period if there are several."""
        self.offset, self.step = int(rng.integers(len(self.actions))), 0
        if self.periods:
            self.period = int(rng.choice(self.periods))

    def act(self, frame: np.ndarray) -> Any:
        """The action of this time step; the frame is ignored."""
        segment = (self.step + (self.period + 1) // 2) // self.period
        self.step += 1
        return self.actions[(segment + self.offset) % len(self.actions)]


class CallablePolicy:
    """A function frame -> action."""

    def __init__(self, function: Callable[[np.ndarray], Any]) -> None:
        self.function = function

    def begin(self, rng: np.random.Generator) -> None:
        """No effect."""

    def act(self, frame: np.ndarray) -> Any:
        """The result of the function."""
        return self.function(frame)


class NoisyPolicy:
    """Another policy, with a share of uniform random actions.

    Args:
        inner: the other policy.
        space: the action space.
        epsilon: share of steps with a random action, in [0, 1].
        epsilons: if not empty, each episode samples its share from these.
    """

    def __init__(self, inner: Policy, space: Space, epsilon: float, epsilons: Sequence[float] = ()) -> None:
        self.inner, self.space, self.epsilon, self.epsilons = inner, space, epsilon, epsilons
        self.uses_inner_observation = getattr(inner, "uses_inner_observation", False)

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode."""
        self.rng = np.random.default_rng(rng.integers(2**63))
        if self.epsilons:
            self.epsilon = float(self.rng.choice(self.epsilons))
        self.inner.begin(rng)

    def act(self, frame: np.ndarray) -> Any:
        """The inner policy's action, or with probability `epsilon` a uniform random one."""
        action = self.inner.act(frame)
        if self.rng.random() < self.epsilon:
            action = self.space.sample(self.rng)
            observe = getattr(self.inner, "observe_executed", None)  # a policy that dreams on from what happened
            if observe is not None:
                observe(action)
        return action
