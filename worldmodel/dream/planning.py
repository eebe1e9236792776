"""Planning in a learned world by the cross-entropy method.

Draw plans, dream each, keep the best, draw the next ones like those (Rubinstein and Kroese 2004; over the steps of a
plan: Kobilarov 2012). As a controller: plan, take the first actions, look, and plan again.

Shapes: M plans, D dreams of each, N = M*D rows of a simulator, L steps, A numbers an action, C choices, E the best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.dream.simulator import Simulator
from worldmodel.dream.simulator_state import SimulatorStep
from worldmodel.prior.sampling import inverse_cdf

Score = Callable[[SimulatorStep], Tensor]
"""What a step of each row is worth, (N,) float32; a plan's score is the sum over its steps."""


def reward_score(step: SimulatorStep) -> Tensor:
    """The rewards: (N,). A row that ended earns nothing more, so survival counts."""
    return step.rewards


def goal_similarity(goal: Tensor) -> Score:
    """A score that is higher the nearer the frame is to a picture, and the sooner.

    Args:
        goal: (H, W, 3) uint8.

    Returns:
        Minus the mean absolute difference of the pixels, in [-1, 0] a step.
    """

    def score(step: SimulatorStep) -> Tensor:
        wanted = goal.to(step.frames.device).float()
        if wanted.shape != step.frames.shape[1:]:
            raise UserError(
                f"goal: got a picture {tuple(goal.shape)}, this world's are {tuple(step.frames.shape[1:])}."
            )
        return -(step.frames.float() - wanted).abs().mean((1, 2, 3)) / 255

    return score


@dataclass(frozen=True)
class Plan:
    """What to do.

    Attributes:
        actions: (L,) int64, (L, A) int64, or (L, A) float32 for Box.
        score: of the plan, the mean over its dreams.
        rounds: (rounds,) float32, the mean score of the plans in each round: it rises as they get better.
    """

    actions: Tensor
    score: float
    rounds: Tensor


@dataclass(frozen=True)
class CrossEntropy:
    """How plans are searched.

    Attributes:
        horizon: L, steps of a plan.
        rounds: how often plans are drawn, dreamed and sorted.
        dreams: D, dreams of each plan, whose scores are averaged. The i-th dream of all plans has the same luck, so
            that plans differ by their actions alone; with one dream a plan is fitted to one future.
        best: share of the plans that the next ones are drawn like.
        keep: share of the distribution that stays from round to round, against settling too early.

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
            raise UserError(f"best={self.best}, keep={self.keep}: wanted shares below 1, and best above 0.")

    @torch.no_grad()
    def plan(self, simulator: Simulator, score: Score = reward_score, seed: int = 0) -> Plan:
        """Search for the best actions from where row 0 of a simulator stands.

        All rows dream: a simulator of M * `dreams` rows tries M plans at once. It is afterwards as it was before.

        Args:
            simulator: N rows, a multiple of `dreams`; row 0 was reset, to a start or to frames of one's own.
            score: what a step is worth; `reward_score`, `goal_similarity(goal)`, or any function of a `SimulatorStep`.
            seed: of the plans drawn and of the luck of their dreams: the same seed finds the same plan.

        Raises:
            UserError: row 0 has ended, too few rows to sort, or a score that is not one number a row.
        """
        rows, device = simulator.num_rows, simulator.world.device
        count = rows // self.dreams  # M
        if rows % self.dreams or count < 2:
            raise UserError(
                f"got a simulator of {rows} rows for plans of {self.dreams} dreams each; wanted some multiple of "
                f"{self.dreams}, at least {2 * self.dreams}."
            )
        if bool(simulator.state.ended[0]):
            raise UserError("row 0 of the simulator has ended or was never reset; there is nothing to plan.")
        generator = torch.Generator().manual_seed(seed)  # on the CPU, so that a plan does not depend on the device
        luck = torch.randint(2**62, (self.dreams,), generator=generator).to(device).repeat(count)  # (N,)
        everywhere, first = torch.arange(rows, device=device), torch.zeros(1, dtype=torch.int64, device=device)
        proposal = propose(simulator.world.spec.action_space, self.horizon, device)
        elite, before, means = max(1, round(self.best * count)), simulator.save(), []
        try:
            for number in range(self.rounds):
                plans = proposal.draw(count, generator)  # (M, L) or (M, L, A)
                if number:
                    plans[0] = proposal.centre()
                simulator.restore(before)
                simulator.clone(first, everywhere, luck)
                total = torch.zeros(rows, device=device)
                for t in range(self.horizon):
                    worth = score(simulator.step(plans[:, t].repeat_interleave(self.dreams, 0)))
                    if worth.shape != total.shape:
                        raise UserError(f"score: got shape {tuple(worth.shape)}, wanted ({rows},), one a row.")
                    total += worth
                scores = total.reshape(count, self.dreams).mean(1).nan_to_num(nan=-torch.inf)  # (M,)
                order = scores.argsort(descending=True, stable=True)
                means.append(scores.mean())
                proposal = proposal.fitted(plans[order[:elite]], self.keep)
        finally:
            simulator.restore(before)
        return Plan(plans[order[0]], float(scores[order[0]]), torch.stack(means))


# -- distributions over plans ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choices:
    """Every number of every step one of some choices, independently.

    Attributes:
        shares: (L, A, C) float32, the probability of each choice, 0 for those that a number does not have.
        shape: of one action, () or (A,).
    """

    shares: Tensor
    shape: tuple[int, ...]

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, L, *shape) int64."""
        length, numbers, _ = self.shares.shape
        noise = torch.rand((count, length, numbers), generator=generator).to(self.shares.device)
        logits = self.shares.log().expand(count, -1, -1, -1)
        return inverse_cdf(logits, noise).reshape(count, length, *self.shape)

    def centre(self) -> Tensor:
        """The likeliest plan, (L, *shape)."""
        return self.shares.argmax(-1).reshape(len(self.shares), *self.shape)

    def fitted(self, plans: Tensor, keep: float) -> Choices:
        """Like some plans, (E, L, *shape), and in part as before."""
        length, numbers, choices = self.shares.shape
        taken = F.one_hot(plans.reshape(-1, length, numbers), choices).float().mean(0)
        return Choices(keep * self.shares + (1 - keep) * taken, self.shape)


@dataclass(frozen=True)
class Numbers:
    """Every number of every step normal, independently, and clipped to its bounds.

    Attributes:
        mean, deviation: (L, A) float32.
        low, high: (A,) float32; infinite where there is no bound.
    """

    mean: Tensor
    deviation: Tensor
    low: Tensor
    high: Tensor

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, L, A) float32."""
        noise = torch.randn((count, *self.mean.shape), generator=generator).to(self.mean.device)
        return (self.mean + noise * self.deviation).clamp(self.low, self.high)

    def centre(self) -> Tensor:
        """The mean plan, (L, A)."""
        return self.mean.clamp(self.low, self.high)

    def fitted(self, plans: Tensor, keep: float) -> Numbers:
        """Like some plans, (E, L, A), and in part as before."""
        mean = keep * self.mean + (1 - keep) * plans.mean(0)
        deviation = keep * self.deviation + (1 - keep) * plans.std(0, correction=0)
        return Numbers(mean, deviation, self.low, self.high)


def propose(space: spaces.Space, length: int, device: torch.device) -> Choices | Numbers:
    """What plans are drawn from at first: every choice alike; numbers around the middle of their bounds, or 0.

    A number's deviation is half of what lies between its bounds, 1 where one is missing.
    """
    if isinstance(space, spaces.Box):
        low = np.asarray([-np.inf if x is None else x for x in space.low])
        high = np.asarray([np.inf if x is None else x for x in space.high])
        bounded = np.isfinite(low) & np.isfinite(high)
        middle = np.where(bounded, (np.where(bounded, low, 0) + np.where(bounded, high, 0)) / 2, np.clip(0, low, high))
        half = np.where(bounded, (np.where(bounded, high, 0) - np.where(bounded, low, 0)) / 2, 1.0)

        def there(values: np.ndarray) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        return Numbers(there(middle).expand(length, -1), there(half).expand(length, -1), there(low), there(high))
    if isinstance(space, spaces.Discrete):
        counts: tuple[int, ...] = (space.n,)
    else:
        counts = space.nvec if isinstance(space, spaces.MultiDiscrete) else (2,) * space.n
    shares = torch.zeros(len(counts), max(counts), device=device)
    for i, n in enumerate(counts):
        shares[i, :n] = 1 / n
    return Choices(shares.expand(length, -1, -1), space.shape)
