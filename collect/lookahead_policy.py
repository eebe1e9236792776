"""A policy that compares its actions in dreams before each decision, and takes a better one where there is one.

On-line improvement by rollouts (Tesauro and Galperin 1996) with a learned world in place of the simulator.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from worldmodel.collect.action_comparison import (
    action_probabilities,
    better_actions,
    returns_by_action,
    sample_actions,
)
from worldmodel.collect.learner_config import LearnerConfig
from worldmodel.collect.learner_envs import dream_keywords
from worldmodel.common.action_planes import ActionPlanes
from worldmodel.common.policy_view import FrameStack
from worldmodel.dream import DreamLearnerEnv
from worldmodel.world.world_model import WorldModel


class LookaheadPolicy:
    """Acts as an SB3 policy, except where dreams promise more for another action.

    Before each decision every action is tried in the same number of dreams that begin from the last observed frames and
    share their random numbers; after it the policy goes on. Its interface is that of `collect.policies.Policy`.

    Args:
        model: an SB3 actor-critic with a Discrete action space.
        learner: the settings that it was trained with; dreams have its hold and reward, and temperature 1.
        world: the world that dreams.
        dreams: D, dreams of each action.
        decisions: K, length of a dream in decisions.
        margin: mean return that another action must promise more than the sampled one to be taken instead, in the
            reward of the training: with the reward "status", 0.01 is one hundredth of the hidden variable's 100.
        backend: what steps the dreams, see `Simulator`.

    Attributes:
        decided, changed: number of decisions so far, and of those in which another action was taken.
    """

    uses_inner_observation = False

    def __init__(
        self,
        model: Any,
        learner: LearnerConfig,
        world: WorldModel,
        dreams: int = 6,
        decisions: int = 3,
        margin: float = 0.01,
        backend: str = "torch",
    ) -> None:
        self.model, self.learner, self.world = model, learner, world
        self.num_dreams, self.decisions, self.margin = dreams, decisions, margin
        settings = replace(
            learner, horizon=None, mirror=False, disagreement_penalty=0.0, start_before_end=0.0, temperature=1.0
        )
        options = {**dream_keywords(settings), "backend": backend}
        self.num_actions = int(model.action_space.n)
        self.dreams = DreamLearnerEnv(world, self.num_actions * dreams, **options)
        self.view = self.dreams.venv.view
        self.planes = ActionPlanes(world.spec.action_space) if learner.last_action else None
        self.decided = self.changed = 0

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode; the same generator gives the same actions."""
        self.rng = rng
        self.stack = FrameStack(self.learner.frame_stack)
        self.frames: deque[np.ndarray] = deque(maxlen=self.world.context_frames)
        self.actions: deque[int] = deque(maxlen=self.world.context_frames)
        self.left = 0
        self.action: int | None = None

    def act(self, frame: np.ndarray) -> int:
        """The action for the current frame (H, W, 3) uint8; it is held as in the training of the policy."""
        visible = self.view.crop(frame)
        stacked = self.stack.push(visible) if self.frames else self.stack.reset(visible)
        self.frames.append(frame)
        if not self.left or self.action is None:
            observed = stacked if self.planes is None else self.planes.append_action(stacked, self.action)
            self.action, self.left = self._decide(observed), self.learner.hold
        self.left -= 1
        self.actions.append(self.action)
        return self.action

    def observe_executed(self, action: int) -> None:
        """Note that another action than the last one of `act` was executed: dreams continue from what happened."""
        self.actions[-1] = int(action)

    def _decide(self, observed: np.ndarray) -> int:
        """Sample the policy's action for (h, w, C), and replace it if another one promises more."""
        own = sample_actions(action_probabilities(self.model, observed.transpose(2, 0, 1)[None]), self.rng.random(1))
        taken = better_actions(self.compare().mean(0)[None], own, self.margin)  # (1,)
        self.decided += 1
        self.changed += int(taken[0] != own[0])
        return int(taken[0])

    def compare(self) -> np.ndarray:
        """Discounted returns (D, A) of dreams that begin with each action after the last observed frames."""
        past = len(self.frames) - 1
        actions = np.asarray(list(self.actions)[len(self.actions) - past :], np.int64)[None]  # (1, T-1)
        context = self.world.context(torch.from_numpy(np.stack(self.frames)[None]), torch.from_numpy(actions))
        rows = torch.zeros(self.dreams.num_envs, dtype=torch.int64)
        seeds = np.tile(self.rng.integers(2**31, size=self.num_dreams), self.num_actions)
        observations = self.dreams.reset_after(context.select(rows), seeds)
        uniforms = self.rng.random((self.decisions, self.num_dreams))
        return returns_by_action(self.dreams, self.model, observations, uniforms, self.learner.gamma)
