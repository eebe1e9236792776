"""Evaluators of plans: in dreams, and in an environment that can return to a saved state.

Shapes: M plans, D dreams of each, N rows of a simulator, L steps, H W pixels, A components of an action.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.dream.plan_scores import Score, reward_score
from worldmodel.dream.simulator import Simulator
from worldmodel.dream.simulator_state import SimulatorState


@dataclass(frozen=True)
class DreamState:
    """A state to plan from in dreams.

    Attributes:
        rows: of the simulator; row 0 is the state.
        noise_seeds: (D,) int64, the seeds of the D dreams of every plan. All plans share them, so that they differ by
            their actions alone.
    """

    rows: SimulatorState
    noise_seeds: Tensor


class DreamEvaluator:
    """Scores plans in dreams. The simulator's rows are stepped; restore `DreamState.rows` to use them again.

    Args:
        simulator: N rows. M plans need M*D rows; more than the simulator has are evaluated one batch after another.
        score: the score of a step: `reward_score`, `goal_mse(goal)`, or any function of a `SimulatorStep`.
        dreams: D, dreams of each plan, whose scores are averaged. With one dream, a plan is fitted to one future.

    Raises:
        UserError: fewer rows than dreams.
    """

    def __init__(self, simulator: Simulator, score: Score = reward_score, dreams: int = 1) -> None:
        if not 1 <= dreams <= simulator.num_rows:
            raise UserError(f"dreams={dreams}: wanted 1 to {simulator.num_rows}, the rows of the simulator.")
        self.simulator, self.score, self.dreams = simulator, score, dreams

    @property
    def action_space(self) -> spaces.Space:
        """The world's."""
        return self.simulator.world.spec.action_space

    def state(self, seed: int = 0) -> DreamState:
        """The current state of row 0 of the simulator.

        Args:
            seed: of the noise of the dreams.

        Raises:
            UserError: row 0 has ended or was never reset.
        """
        if bool(self.simulator.state.ended[0]):
            raise UserError("row 0 of the simulator has ended or was never reset; there is nothing to plan.")
        noise_seeds = torch.randint(2**62, (self.dreams,), generator=torch.Generator().manual_seed(seed))
        return DreamState(self.simulator.save(), noise_seeds)

    @torch.no_grad()
    def evaluate(self, state: DreamState, plans: Tensor) -> Tensor:
        """As `Evaluator.evaluate`: the mean over the dreams of a plan."""
        size = self.simulator.num_rows // self.dreams
        return torch.cat([self._evaluate_batch(state, batch, size) for batch in plans.split(size)])

    def _evaluate_batch(self, state: DreamState, plans: Tensor, size: int) -> Tensor:
        """Scores of at most `size` plans; the other rows repeat the last plan."""
        simulator, rows, device = self.simulator, self.simulator.num_rows, self.simulator.world.device
        index = torch.arange(rows) // self.dreams  # of the plan in each row
        row_plans = plans[index.clamp_max(len(plans) - 1)].to(device)  # (N, L) or (N, L, A)
        seeds = state.noise_seeds.to(device)[torch.arange(rows, device=device) % self.dreams]  # (N,)
        simulator.restore(state.rows)
        simulator.clone(torch.zeros(1, dtype=torch.int64, device=device), torch.arange(rows, device=device), seeds)
        total = torch.zeros(rows, dtype=torch.float32, device=device)
        for t in range(plans.shape[1]):
            total += checked_score(self.score(simulator.step(row_plans[:, t])), rows)
        return total[: size * self.dreams].reshape(size, self.dreams).mean(1)[: len(plans)].cpu()


@dataclass(frozen=True)
class EnvSteps:
    """One step of N plans in an environment, for a `Score`. A plan that has ended keeps its last frame.

    Attributes:
        frames: (N, H, W, 3) uint8; (N, 0, 0, 3) where only rewards are needed and the environment can skip them.
        rewards: (N,) float32.
    """

    frames: Tensor
    rewards: Tensor


class EnvEvaluator:
    """Scores plans in an environment, one after another, from a saved state.

    Args:
        env: a `PixelEnv` with `save_state() -> state` and `restore_state(state)`. If only rewards are scored and it
            has `simulate(action) -> reward`, a step without a frame, that is called in place of `step`.
        score: as for `DreamEvaluator`; it gets an `EnvSteps`.

    Raises:
        UserError: the environment cannot return to a saved state.
    """

    def __init__(self, env: Any, score: Score = reward_score) -> None:
        if not (hasattr(env, "save_state") and hasattr(env, "restore_state")):
            raise UserError(
                f"{env.meta.id} cannot return to a saved state (save_state, restore_state), so no plan can be searched "
                "in it: plan in a learned world alone (eval plan: --no-true-simulator)."
            )
        self.env, self.score = env, score
        self.needs_frames = score is not reward_score or not hasattr(env, "simulate")

    @property
    def action_space(self) -> spaces.Space:
        """The environment's."""
        return self.env.meta.action_space

    def evaluate(self, state: Any, plans: Tensor) -> Tensor:
        """As `Evaluator.evaluate`. Afterwards the environment is in the given state again."""
        try:
            played = [self._play(state, plan) for plan in plans.numpy()]
        finally:
            self.env.restore_state(state)
        frames = torch.from_numpy(np.stack([frames for frames, _ in played], 1))  # (L, M, H, W, 3)
        rewards = torch.from_numpy(np.stack([rewards for _, rewards in played], 1))  # (L, M)
        total = torch.zeros(len(plans), dtype=torch.float32)
        for step in map(EnvSteps, frames, rewards):
            total += checked_score(self.score(step), len(plans)).cpu()
        return total

    def _play(self, state: Any, plan: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Frames (L, H, W, 3) uint8 and rewards (L,) float32 of a plan."""
        self.env.restore_state(state)
        shape = self.env.meta.pixels.frame_shape if self.needs_frames else (0, 0, 3)
        frames, rewards = np.zeros((len(plan), *shape), np.uint8), np.zeros(len(plan), np.float32)
        for t, action in enumerate(plan):
            taken = action if self.action_space.shape else int(action)
            if not self.needs_frames:
                rewards[t] = self.env.simulate(taken)
                continue
            frames[t:], rewards[t], terminated, truncated, _ = self.env.step(taken)
            if terminated or truncated:
                break
        return frames, rewards


def checked_score(scores: Tensor, rows: int) -> Tensor:
    """The scores of a step.

    Raises:
        UserError: not one number per row.
    """
    if scores.shape != (rows,):
        raise UserError(f"score: got shape {tuple(scores.shape)}, wanted ({rows},), one per row.")
    return scores
