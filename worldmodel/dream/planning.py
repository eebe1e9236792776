"""Planning in a learned world by the cross-entropy method.

Sample plans, dream each of them, keep the best, and fit the distribution of the next plans to those (Rubinstein and
Kroese 2004; over the steps of a plan: Kobilarov 2012). As a controller: plan, take the first actions, observe the next
frames, and plan again.

Shapes: M plans, D dreams of each, N = M*D rows of a simulator, L steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.common.errors import UserError
from worldmodel.dream.plan_distributions import PlanDistribution, initial_distribution
from worldmodel.dream.simulator import Simulator
from worldmodel.dream.simulator_state import SimulatorStep

Score = Callable[[SimulatorStep], Tensor]
"""The score of one step of each row, (N,) float32. A plan's score is the sum over its steps."""


def reward_score(step: SimulatorStep) -> Tensor:
    """The rewards: (N,). A row that has ended gets no more rewards, so survival counts."""
    return step.rewards


def goal_similarity(goal: Tensor) -> Score:
    """A score that is higher the more similar the frame is to a goal, and the sooner.

    Args:
        goal: (H, W, 3) uint8.

    Returns:
        Minus the mean absolute difference of the pixels, in [-1, 0] per step.
    """

    def score(step: SimulatorStep) -> Tensor:
        target = goal.to(step.frames.device, torch.float32)
        if target.shape != step.frames.shape[1:]:
            raise UserError(
                f"goal: got a frame of shape {tuple(goal.shape)}, this world's have {tuple(step.frames.shape[1:])}."
            )
        return -(step.frames.float() - target).abs().mean((1, 2, 3)) / 255

    return score


@dataclass(frozen=True)
class Plan:
    """The best plan that was found.

    Attributes:
        actions: (L,) int64, (L, A) int64, or (L, A) float32 for Box.
        score: of the plan, the mean over its dreams.
        rounds: (rounds,) float32, the mean score of the plans of each round; it rises as the plans get better.
    """

    actions: Tensor
    score: float
    rounds: Tensor


@dataclass(frozen=True)
class CrossEntropy:
    """The settings of the search for a plan.

    Attributes:
        horizon: L, steps of a plan.
        rounds: how often plans are sampled, dreamed and ranked.
        dreams: D, dreams of each plan, whose scores are averaged. The i-th dream of all plans has the same noise seed,
            so that plans differ by their actions alone. With one dream, a plan is fitted to one future.
        best: fraction of the plans that the next distribution is fitted to, the elite.
        keep: weight of the previous distribution in the next one, which keeps the search from narrowing too early.

    Raises:
        UserError: a number out of its range.
    """

    horizon: int = 8
    rounds: int = 4
    dreams: int = 1
    best: float = 0.1
    keep: float = 0.1

    def __post_init__(self) -> None:
        for name in ("horizon", "rounds", "dreams"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: wanted at least 1.")
        if not 0 < self.best < 1 or not 0 <= self.keep < 1:
            raise UserError(f"best={self.best}, keep={self.keep}: wanted fractions below 1, and best above 0.")

    @torch.no_grad()
    def plan(self, simulator: Simulator, score: Score = reward_score, seed: int = 0) -> Plan:
        """Search for the best actions from the current state of row 0 of a simulator.

        All rows are used: a simulator of M * `dreams` rows evaluates M plans at once. Its state is restored afterwards.

        Args:
            simulator: N rows, a multiple of `dreams`; row 0 was reset, to a start or to given frames.
            score: the score of a step: `reward_score`, `goal_similarity(goal)`, or any function of a `SimulatorStep`.
            seed: of the sampled plans and of their dreams' noise: the same seed finds the same plan.

        Raises:
            UserError: row 0 has ended, too few rows to rank, or a score that is not one number per row.
        """
        num_plans, device = self._num_plans(simulator), simulator.world.device
        generator = torch.Generator().manual_seed(seed)  # on the CPU, so that a plan does not depend on the device
        seeds = torch.randint(2**62, (self.dreams,), generator=generator).to(device).repeat(num_plans)  # (N,)
        distribution: PlanDistribution = initial_distribution(simulator.world.spec.action_space, self.horizon, device)
        num_elite, saved, means = max(1, round(self.best * num_plans)), simulator.save(), []
        try:
            for i in range(self.rounds):
                plans = distribution.sample(num_plans, generator)  # (M, L) or (M, L, A)
                if i:
                    plans[0] = distribution.mode()
                simulator.restore(saved)
                scores = self._evaluate(simulator, plans, score, seeds)  # (M,)
                order = scores.argsort(descending=True, stable=True)
                means.append(scores.mean())
                distribution = distribution.refit(plans[order[:num_elite]], self.keep)
        finally:
            simulator.restore(saved)
        return Plan(plans[order[0]], float(scores[order[0]]), torch.stack(means))

    def _num_plans(self, simulator: Simulator) -> int:
        """M, the plans that a simulator evaluates at once.

        Raises:
            UserError: row 0 has ended, or too few rows.
        """
        num_plans = simulator.num_rows // self.dreams
        if simulator.num_rows % self.dreams or num_plans < 2:
            raise UserError(
                f"got a simulator of {simulator.num_rows} rows for plans of {self.dreams} dreams each; wanted a "
                f"multiple of {self.dreams}, at least {2 * self.dreams}."
            )
        if bool(simulator.state.ended[0]):
            raise UserError("row 0 of the simulator has ended or was never reset; there is nothing to plan.")
        return num_plans

    def _evaluate(self, simulator: Simulator, plans: Tensor, score: Score, seeds: Tensor) -> Tensor:
        """Mean scores of plans over their dreams: (M, L) or (M, L, A) -> (M,), NaN replaced by -inf."""
        rows, device = simulator.num_rows, seeds.device
        row_0 = torch.zeros(1, dtype=torch.int64, device=device)
        simulator.clone(row_0, torch.arange(rows, device=device), seeds)
        total = torch.zeros(rows, dtype=torch.float32, device=device)
        for t in range(self.horizon):
            step_scores = score(simulator.step(plans[:, t].repeat_interleave(self.dreams, 0)))
            if step_scores.shape != total.shape:
                raise UserError(f"score: got shape {tuple(step_scores.shape)}, wanted ({rows},), one per row.")
            total += step_scores
        return total.reshape(len(plans), self.dreams).mean(1).nan_to_num(nan=-torch.inf)
