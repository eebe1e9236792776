"""Planning in a learned world by the cross-entropy method, with all rows of a simulator as plans.

`planners` has the planners themselves, which also plan in environments. `CrossEntropy` plans in a dream with one call.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from worldmodel.common.errors import UserError
from worldmodel.dream.plan_evaluators import DreamEvaluator, DreamState
from worldmodel.dream.plan_scores import Score, reward_score
from worldmodel.dream.plan_scores import goal_similarity as goal_similarity
from worldmodel.dream.planners import CEM, Plan
from worldmodel.dream.simulator import Simulator


@dataclass(frozen=True)
class CrossEntropy:
    """`planners.CEM` in the dreams of a simulator.

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
        num_plans = simulator.num_rows // self.dreams
        if simulator.num_rows % self.dreams or num_plans < 2:
            raise UserError(
                f"got a simulator of {simulator.num_rows} rows for plans of {self.dreams} dreams each; wanted a "
                f"multiple of {self.dreams}, at least {2 * self.dreams}."
            )
        evaluator = DreamEvaluator(simulator, score, self.dreams)
        generator = torch.Generator().manual_seed(seed)
        noise_seeds = torch.randint(2**62, (self.dreams,), generator=generator)
        state = DreamState(evaluator.state().rows, noise_seeds)
        planner = CEM(self.horizon, num_plans, self.rounds, self.keep, elite_fraction=self.best)
        try:
            return planner.search(evaluator, state, generator, None, 0)
        finally:
            simulator.restore(state.rows)
