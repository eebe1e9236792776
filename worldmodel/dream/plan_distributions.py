"""Distributions over plans that planners sample from and refit.

Shapes: M plans, E of them the elite, L steps, A components of an action, C choices of a component.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.dream.coloured_noise import coloured_noise
from worldmodel.prior.sampling import inverse_cdf


class PlanDistribution(ABC):
    """A distribution over plans (L, *shape of an action), independent over components.

    It is independent over steps too, unless plans are sampled with coloured noise: then each step alone still has this
    distribution, but actions of near steps are alike.
    """

    @abstractmethod
    def sample(self, num_plans: int, generator: torch.Generator, noise_exponent: float = 0.0) -> Tensor:
        """Sample plans: (M, L) int64, (M, L, A) int64, or (M, L, A) float32 for Box.

        Args:
            num_plans: M.
            generator: on the CPU.
            noise_exponent: of the spectrum over the steps, see `coloured_noise`; 0 is independent noise.
        """

    @abstractmethod
    def mode(self) -> Tensor:
        """The most likely plan, (L,) or (L, A)."""

    @abstractmethod
    def refit(self, plans: Tensor, keep: float) -> Self:
        """Fit to some plans, (E, L) or (E, L, A); `keep` is the weight of this distribution in the result."""

    @abstractmethod
    def reweight(self, plans: Tensor, weights: Tensor, keep: float) -> Self:
        """Move to the weighted mean of plans without becoming narrower, as MPPI does.

        Args:
            plans: (M, L) or (M, L, A).
            weights: (M,) float32, sum 1.
            keep: the weight of this distribution in the result.
        """

    @abstractmethod
    def shift(self, num_steps: int, initial: Self) -> Self:
        """The distribution of the next decision's first plans, after `num_steps` of these steps were executed.

        The other steps move to the front, and the last is repeated at the end. It is as wide as `initial`, or, where
        there are choices, the mean of both.
        """


@dataclass(frozen=True)
class CategoricalPlans(PlanDistribution):
    """Every component of every step is one of some choices.

    Attributes:
        probs: (L, A, C) float32, the probability of each choice, 0 for those that a component does not have.
        shape: of one action, () or (A,).
    """

    probs: Tensor
    shape: tuple[int, ...]

    def sample(self, num_plans: int, generator: torch.Generator, noise_exponent: float = 0.0) -> Tensor:
        """As `PlanDistribution.sample`: (M, L, *shape) int64.

        Coloured noise gives uniform numbers by the normal distribution function (a Gaussian copula).
        """
        length, size, _ = self.probs.shape
        if noise_exponent:
            normal = coloured_noise((num_plans, size, length), noise_exponent, generator).mT  # (M, L, A)
            uniform = torch.special.ndtr(normal)
        else:
            uniform = torch.rand((num_plans, length, size), generator=generator, dtype=torch.float32)
        logits = self.probs.log().expand(num_plans, -1, -1, -1)  # (M, L, A, C)
        return inverse_cdf(logits, uniform.to(self.probs.device)).reshape(num_plans, length, *self.shape)

    def mode(self) -> Tensor:
        """As `PlanDistribution.mode`: (L, *shape) int64."""
        return self.probs.argmax(-1).reshape(len(self.probs), *self.shape)

    def refit(self, plans: Tensor, keep: float) -> CategoricalPlans:
        """As `PlanDistribution.refit`."""
        length, size, choices = self.probs.shape
        frequencies = F.one_hot(plans.reshape(-1, length, size), choices).float().mean(0)  # (L, A, C)
        return CategoricalPlans(keep * self.probs + (1 - keep) * frequencies, self.shape)

    def reweight(self, plans: Tensor, weights: Tensor, keep: float) -> CategoricalPlans:
        """As `PlanDistribution.reweight`; where there are choices, the weighted frequencies."""
        length, size, choices = self.probs.shape
        chosen = F.one_hot(plans.reshape(-1, length, size), choices).float()  # (M, L, A, C)
        frequencies = torch.einsum("mlac,m->lac", chosen, weights)
        return CategoricalPlans(keep * self.probs + (1 - keep) * frequencies, self.shape)

    def shift(self, num_steps: int, initial: CategoricalPlans) -> CategoricalPlans:
        """As `PlanDistribution.shift`."""
        return CategoricalPlans((_shift(self.probs, num_steps) + initial.probs) / 2, self.shape)


@dataclass(frozen=True)
class GaussianPlans(PlanDistribution):
    """Every component of every step is normal, clipped to its bounds.

    Attributes:
        mean, std: (L, A) float32.
        low, high: (A,) float32; infinite where there is no bound.
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor

    def sample(self, num_plans: int, generator: torch.Generator, noise_exponent: float = 0.0) -> Tensor:
        """As `PlanDistribution.sample`: (M, L, A) float32."""
        length, size = self.mean.shape
        if noise_exponent:
            noise = coloured_noise((num_plans, size, length), noise_exponent, generator).mT  # (M, L, A)
        else:
            noise = torch.randn((num_plans, length, size), generator=generator, dtype=torch.float32)
        return (self.mean + noise.to(self.mean.device) * self.std).clamp(self.low, self.high)

    def mode(self) -> Tensor:
        """As `PlanDistribution.mode`: (L, A) float32."""
        return self.mean.clamp(self.low, self.high)

    def refit(self, plans: Tensor, keep: float) -> GaussianPlans:
        """As `PlanDistribution.refit`."""
        mean = keep * self.mean + (1 - keep) * plans.mean(0)
        std = keep * self.std + (1 - keep) * plans.std(0, correction=0)
        return GaussianPlans(mean, std, self.low, self.high)

    def reweight(self, plans: Tensor, weights: Tensor, keep: float) -> GaussianPlans:
        """As `PlanDistribution.reweight`."""
        mean = keep * self.mean + (1 - keep) * torch.einsum("mla,m->la", plans, weights)
        return GaussianPlans(mean, self.std, self.low, self.high)

    def shift(self, num_steps: int, initial: GaussianPlans) -> GaussianPlans:
        """As `PlanDistribution.shift`."""
        return GaussianPlans(_shift(self.mean, num_steps), initial.std, self.low, self.high)


def _shift(values: Tensor, num_steps: int) -> Tensor:
    """(L, ...) without the first steps, the last repeated at the end."""
    steps = torch.arange(len(values), device=values.device) + num_steps
    return values[steps.clamp_max(len(values) - 1)]


def initial_distribution(
    space: spaces.Space, length: int, device: torch.device, std_scale: float = 1.0
) -> CategoricalPlans | GaussianPlans:
    """The distribution of the first plans, of `length` steps in an action space.

    All choices have the same probability. A real number has the middle of its bounds as its mean, 0 where one is
    missing, and half of the distance between them as its standard deviation, 1 where one is missing, times `std_scale`.

    Raises:
        UserError: the space has no actions.
    """
    if isinstance(space, spaces.NoAction):
        raise UserError("this world was learned from videos without actions: there is nothing to plan.")
    if isinstance(space, spaces.Box):
        return _initial_gaussian(space, length, device, std_scale)
    if isinstance(space, spaces.Discrete):
        counts: tuple[int, ...] = (space.n,)
    else:
        counts = space.nvec if isinstance(space, spaces.MultiDiscrete) else (2,) * space.n
    probs = torch.zeros(len(counts), max(counts), dtype=torch.float32, device=device)
    for i, n in enumerate(counts):
        probs[i, :n] = 1 / n
    return CategoricalPlans(probs.expand(length, -1, -1), space.shape)


def _initial_gaussian(space: spaces.Box, length: int, device: torch.device, std_scale: float) -> GaussianPlans:
    low = np.asarray([-np.inf if x is None else x for x in space.low])
    high = np.asarray([np.inf if x is None else x for x in space.high])
    bounded = np.isfinite(low) & np.isfinite(high)
    finite_low, finite_high = np.where(bounded, low, 0), np.where(bounded, high, 0)
    mean = np.where(bounded, (finite_low + finite_high) / 2, np.clip(0, low, high))
    std = std_scale * np.where(bounded, (finite_high - finite_low) / 2, 1.0)

    def tensor(values: np.ndarray) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)

    return GaussianPlans(tensor(mean).expand(length, -1), tensor(std).expand(length, -1), tensor(low), tensor(high))
