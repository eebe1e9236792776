"""Planners behind one interface: the cross-entropy method, iCEM and MPPI.

A planner samples plans, lets an evaluator score them from a state, and moves its distribution towards the better ones.
It works on anything that scores plans: a dream (`DreamEvaluator`), an environment with saved states (`EnvEvaluator`),
a function. As a controller (model predictive control): plan, execute the first actions, observe, and plan again,
beginning with the previous plan.

Shapes: M plans, E of them the elite, L steps, A components of an action.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.dream.plan_distributions import PlanDistribution, initial_distribution


class Evaluator(Protocol):
    """Scores plans.

    Attributes:
        action_space: of the actions in a plan.
    """

    @property
    def action_space(self) -> spaces.Space: ...

    def evaluate(self, state: Any, plans: Tensor) -> Tensor:
        """The scores of plans from a state, higher is better; the same arguments give the same scores.

        Args:
            state: of this evaluator.
            plans: on the CPU: (M, L) int64 for Discrete, (M, L, A) int64, or (M, L, A) float32 for Box.

        Returns:
            (M,) float32; NaN counts as the worst.
        """


@dataclass(frozen=True)
class Plan:
    """A plan that was found.

    Attributes:
        actions: (L,) int64, (L, A) int64, or (L, A) float32 for Box.
        score: of the plan; of MPPI's, whose plan is a mean, the weighted mean of the scores.
        rounds: (rounds,) float32, the mean score of the plans of each round; it rises as the plans get better.
        distribution: of the plans after the last round. The next decision begins with it.
        elites: (E, L) or (E, L, A), the best plans, the best first; empty for planners that keep none.
    """

    actions: Tensor
    score: float
    rounds: Tensor
    distribution: PlanDistribution | None = None
    elites: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(frozen=True)
class Planner(ABC):
    """The settings of a search for a plan.

    Attributes:
        horizon: L, steps of a plan.
        candidates: M, plans that are evaluated in a round.
        rounds: how often plans are sampled, evaluated and ranked.
        momentum: weight of the previous distribution in the next one, which keeps the search from narrowing too early.
        init_std: standard deviation of the first plans of a Box, in units of half the distance between its bounds.

    Raises:
        UserError: a number out of its range.
    """

    horizon: int = 8
    candidates: int = 64
    rounds: int = 4
    momentum: float = 0.1
    init_std: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("horizon", 1), ("candidates", 2), ("rounds", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)}: wanted at least {least}.")
        if not 0 <= self.momentum < 1:
            raise UserError(f"momentum={self.momentum}: wanted a fraction below 1.")
        if not self.init_std > 0:
            raise UserError(f"init_std={self.init_std}: wanted a positive number.")

    def plan(
        self, evaluator: Evaluator, state: Any, seed: int = 0, previous: Plan | None = None, executed: int = 1
    ) -> Plan:
        """Search for the best actions from a state.

        Args:
            evaluator: scores the plans.
            state: of the evaluator.
            seed: of the sampled plans: the same arguments find the same plan.
            previous: the plan of the last decision, by the same planner. The search begins near the rest of it, if
                there is one.
            executed: number of its actions that were executed since.
        """
        return self.search(evaluator, state, torch.Generator().manual_seed(seed), previous, executed)

    @torch.no_grad()
    def search(
        self, evaluator: Evaluator, state: Any, generator: torch.Generator, previous: Plan | None, executed: int
    ) -> Plan:
        """`plan` with a generator on the CPU, so that a plan does not depend on the device of a dream."""
        initial: PlanDistribution = initial_distribution(
            evaluator.action_space, self.horizon, torch.device("cpu"), self.init_std
        )
        begun = previous is not None and previous.distribution is not None and executed < self.horizon
        distribution = previous.distribution.shift(executed, initial) if begun else initial  # type: ignore[union-attr]
        plan = Plan(distribution.mode(), -torch.inf, torch.empty(0), distribution)
        if begun:
            plan = self._continued(previous, executed, plan, generator)  # type: ignore[arg-type]
        means = []
        for i in range(self.rounds):
            plans = self._sample(i, plan, generator, with_mode=i > 0 or begun)
            scores = evaluator.evaluate(state, plans).float().cpu().nan_to_num(nan=-torch.inf)
            means.append(scores.mean())
            plan = self._update(plan, plans, scores)
        return Plan(plan.actions, plan.score, torch.stack(means), plan.distribution, plan.elites)

    def _continued(self, previous: Plan, executed: int, plan: Plan, generator: torch.Generator) -> Plan:
        """The plan to begin with after a previous decision: by default without its elites."""
        return plan

    def _sample(self, i: int, plan: Plan, generator: torch.Generator, with_mode: bool) -> Tensor:
        """The plans of round i: by default independent over steps, the first of them the mode if `with_mode`."""
        assert plan.distribution is not None
        plans = plan.distribution.sample(self.candidates, generator)
        if with_mode:
            plans[0] = plan.distribution.mode()
        return plans

    @abstractmethod
    def _update(self, plan: Plan, plans: Tensor, scores: Tensor) -> Plan:
        """The plan after a round, with the next distribution; `rounds` is not used."""


@dataclass(frozen=True)
class CEM(Planner):
    """The cross-entropy method (Rubinstein 1999; over the steps of a plan: Kobilarov 2012).

    Each round fits the distribution to the elite, the best plans of the round. The result is the best of the last.

    Attributes:
        elite_fraction: fraction of the plans that are the elite.
    """

    elite_fraction: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.elite_fraction < 1:
            raise UserError(f"elite_fraction={self.elite_fraction}: wanted a fraction between 0 and 1.")

    @property
    def num_elites(self) -> int:
        """E."""
        return max(1, round(self.elite_fraction * self.candidates))

    def _update(self, plan: Plan, plans: Tensor, scores: Tensor) -> Plan:
        """As `Planner._update`."""
        assert plan.distribution is not None
        order = scores.argsort(descending=True, stable=True)
        distribution = plan.distribution.refit(plans[order[: self.num_elites]], self.momentum)
        return Plan(plans[order[0]], float(scores[order[0]]), plan.rounds, distribution)


@dataclass(frozen=True)
class ICEM(CEM):
    """The improved cross-entropy method, iCEM (Pinneri et al. 2020, arXiv:2008.06389).

    As CEM, with coloured noise over the steps, elites that are kept from one round to the next and, shifted, from one
    decision to the next, fewer plans in later rounds, and the mean as a plan of the last round. Kept elites are part
    of a round's plans and are evaluated again, so that an evaluator must be deterministic. The result is the best plan
    of the last round, which contains the best of the earlier ones. Where actions are choices, coloured noise selects
    them by their cumulative probability.

    Attributes:
        noise_exponent: of the spectrum of the noise (beta), see `coloured_noise`; 0 is white.
        keep_fraction: fraction of the elite that is kept (xi).
        decay: the number of plans is divided by it from one round to the next (gamma), down to twice the elite.
    """

    init_std: float = 0.5
    noise_exponent: float = 2.0
    keep_fraction: float = 0.3
    decay: float = 1.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.noise_exponent <= 10:
            raise UserError(f"noise_exponent={self.noise_exponent}: wanted a number from 0 to 10.")
        if not 0 <= self.keep_fraction <= 1:
            raise UserError(f"keep_fraction={self.keep_fraction}: wanted a fraction.")
        if not self.decay >= 1:
            raise UserError(f"decay={self.decay}: wanted a number of at least 1.")

    @property
    def num_kept(self) -> int:
        """Number of elites that are kept."""
        return min(self.num_elites, -int(-self.keep_fraction * self.num_elites // 1))

    def num_candidates(self, i: int) -> int:
        """Number of plans in round i."""
        return min(self.candidates, max(int(self.candidates / self.decay**i), 2 * self.num_elites))

    def _continued(self, previous: Plan, executed: int, plan: Plan, generator: torch.Generator) -> Plan:
        """The kept elites without the executed steps, with sampled actions at the end."""
        assert plan.distribution is not None
        kept = previous.elites[: self.num_kept]
        if not len(kept):
            return plan
        ends = plan.distribution.sample(len(kept), generator, self.noise_exponent)
        elites = torch.cat([kept[:, executed:], ends[:, self.horizon - executed :]], dim=1)
        return Plan(plan.actions, plan.score, plan.rounds, plan.distribution, elites)

    def _sample(self, i: int, plan: Plan, generator: torch.Generator, with_mode: bool) -> Tensor:
        """The kept elites, in the last round the mean, and sampled plans."""
        assert plan.distribution is not None
        plans = plan.distribution.sample(self.num_candidates(i), generator, self.noise_exponent)
        kept = plan.elites[: min(self.num_kept, len(plans) - 1)]
        if len(kept):
            plans[: len(kept)] = kept
        if i == self.rounds - 1 and len(kept) < len(plans):
            plans[len(kept)] = plan.distribution.mode()
        return plans

    def _update(self, plan: Plan, plans: Tensor, scores: Tensor) -> Plan:
        """As `Planner._update`."""
        updated = super()._update(plan, plans, scores)
        elites = plans[scores.argsort(descending=True, stable=True)[: self.num_elites]]
        return Plan(updated.actions, updated.score, plan.rounds, updated.distribution, elites)


@dataclass(frozen=True)
class MPPI(Planner):
    """Model predictive path integral control (Williams et al. 2017, "Information theoretic MPC", algorithm 2).

    Each round moves the mean to that of all plans, weighted by exp(score / temperature); the width does not change.
    The result is the mean, or the most likely choices, after the last round. Where actions are choices, their
    probabilities become the weighted frequencies.

    Attributes:
        temperature: lambda, in units of the standard deviation of the round's scores, so that it does not depend on
            their unit.
    """

    init_std: float = 0.5
    temperature: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise UserError(f"temperature={self.temperature}: wanted a positive number.")

    def _update(self, plan: Plan, plans: Tensor, scores: Tensor) -> Plan:
        """As `Planner._update`."""
        assert plan.distribution is not None
        finite = scores.isfinite()
        if not finite.any():
            return plan
        spread = scores[finite].std(correction=0).clamp_min(1e-8)
        weights = ((scores - scores[finite].max()) / (self.temperature * spread)).softmax(0)
        distribution = plan.distribution.reweight(plans, weights, self.momentum)
        score = float((weights * scores.where(finite, 0.0)).sum())
        return Plan(distribution.mode(), score, plan.rounds, distribution)


PLANNERS: dict[str, type[Planner]] = {"cem": CEM, "icem": ICEM, "mppi": MPPI}
