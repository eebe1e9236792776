"""Planners as policies (model predictive control): plan, execute the first actions, observe, and plan again.

They have the interface of `collect.policies.Policy`: `begin(rng)` and `act(frame)`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.common.errors import UserError
from worldmodel.dream.plan_evaluators import DreamEvaluator, EnvEvaluator
from worldmodel.dream.plan_scores import Score, reward_score
from worldmodel.dream.planners import Evaluator, Plan, Planner
from worldmodel.dream.simulator import Simulator


class PlanningPolicy(ABC):
    """Acts by a planner.

    Attributes:
        seconds: spent on planning since this policy was made.
        searches: number of searches since then.

    Args:
        planner: the search for a plan.
        replan_every: number of actions of a plan that are executed before the next search, at most its horizon.

    Raises:
        UserError: `replan_every` out of range.
    """

    def __init__(self, planner: Planner, replan_every: int = 1) -> None:
        if not 1 <= replan_every <= planner.horizon:
            raise UserError(f"replan_every={replan_every}: wanted 1 to the horizon, {planner.horizon}.")
        self.planner, self.replan_every = planner, replan_every
        self.seconds, self.searches = 0.0, 0

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode; the same generator gives the same actions."""
        self.rng = rng
        self.previous: Plan | None = None
        self.queue: list[Tensor] = []

    def act(self, frame: np.ndarray) -> Any:
        """The action for the current frame (H, W, 3) uint8."""
        self._observe(frame)
        if not self.queue:
            start = time.perf_counter()
            seed = int(self.rng.integers(2**31))
            evaluator, state = self._situation(seed)
            self.previous = self.planner.plan(evaluator, state, seed, self.previous, self.replan_every)
            self.queue = list(self.previous.actions[: self.replan_every])
            self.seconds, self.searches = self.seconds + time.perf_counter() - start, self.searches + 1
        action = self.queue.pop(0)
        self._keep_action(action)
        return action.numpy()

    @abstractmethod
    def _situation(self, seed: int) -> tuple[Evaluator, Any]:
        """The evaluator and its state to plan from."""

    @abstractmethod
    def _observe(self, frame: np.ndarray) -> None:
        """Keep a frame, where the state is inferred from frames."""

    @abstractmethod
    def _keep_action(self, action: Tensor) -> None:
        """Keep an executed action, where the state is inferred from frames and actions."""


class DreamPlanningPolicy(PlanningPolicy):
    """Plans in dreams that begin from the last observed frames.

    Args:
        simulator: its world has the environment's frames and actions; N rows evaluate N / `dreams` plans at once.
        planner, replan_every: as for `PlanningPolicy`.
        score, dreams: as for `DreamEvaluator`.
    """

    def __init__(
        self,
        simulator: Simulator,
        planner: Planner,
        score: Score = reward_score,
        dreams: int = 1,
        replan_every: int = 1,
    ) -> None:
        super().__init__(planner, replan_every)
        self.simulator, self.evaluator = simulator, DreamEvaluator(simulator, score, dreams)

    def begin(self, rng: np.random.Generator) -> None:
        """As `PlanningPolicy.begin`."""
        super().begin(rng)
        count = self.simulator.world.context_frames
        self.frames: deque[np.ndarray] = deque(maxlen=count)
        self.actions: deque[Tensor] = deque(maxlen=count)

    def _observe(self, frame: np.ndarray) -> None:
        self.frames.append(frame)

    def _keep_action(self, action: Tensor) -> None:
        self.actions.append(action)

    def _situation(self, seed: int) -> tuple[Evaluator, Any]:
        world, num_actions = self.simulator.world, len(self.frames) - 1
        space = world.spec.action_space
        actions = torch.zeros((1, num_actions, *space.shape), dtype=torch.from_numpy(np.zeros(0, space.dtype)).dtype)
        if num_actions:
            actions = torch.stack(list(self.actions)[-num_actions:])[None]  # (1, T) or (1, T, A)
        frames = torch.from_numpy(np.stack(self.frames))[None]  # (1, T+1, H, W, 3)
        row_0 = torch.tensor([0])
        self.simulator.seed(torch.tensor([seed]), row_0)  # so that the dreams do not depend on earlier searches
        self.simulator.reset(row_0, context=world.context(frames, actions))
        return self.evaluator, self.evaluator.state(seed)


class EnvPlanningPolicy(PlanningPolicy):
    """Plans in the environment itself, from its saved state: the upper bound for a planner in a learned world.

    Args:
        env: the environment that is played, see `EnvEvaluator`.
        planner, replan_every: as for `PlanningPolicy`.
        score: as for `EnvEvaluator`.
    """

    def __init__(self, env: Any, planner: Planner, score: Score = reward_score, replan_every: int = 1) -> None:
        super().__init__(planner, replan_every)
        self.env, self.evaluator = env, EnvEvaluator(env, score)

    def _situation(self, seed: int) -> tuple[Evaluator, Any]:
        return self.evaluator, self.env.save_state()

    def _observe(self, frame: np.ndarray) -> None:
        """The environment has the state."""

    def _keep_action(self, action: Tensor) -> None:
        """The environment has the state."""
