"""Estimates with intervals: the bootstrap, average precision, calibration.

An estimate is a statistic of N units, episodes or dreams, which are resampled with replacement; a unit's multiplicity
is its weight. Everything that belongs to a unit is resampled together: the clips of an episode, which are similar and
not independent, and two predictions of the same clip, so that differences are paired.

Shapes: N units, S samples (steps) of all of them, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

RESAMPLES = 2000
BINS = 10  # of equal mass, for the calibration error


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; `low` and `high` are None where nothing was resampled."""

    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies on one side of 0, else 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)

    def scaled(self, factor: float) -> Estimate:
        """The estimate times a positive number."""
        low, high = (None if bound is None else bound * factor for bound in (self.low, self.high))
        return Estimate(self.mean * factor, low, high)

    def to_json(self) -> dict[str, float | None]:
        """{"mean", "low", "high"}; None where a number is not finite."""
        return {
            name: float(value) if value is not None and np.isfinite(value) else None
            for name, value in vars(self).items()
        }


@lru_cache(maxsize=16)  # most values of a report have the same number of units
def resample_weights(count: int, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """How often each of N units occurs in each resample, (R, N) float64, read-only; each row sums to N."""
    units = np.random.default_rng(seed).integers(count, size=(resamples, count))
    rows = np.arange(resamples)[:, None] * count
    multiplicity = np.bincount((units + rows).ravel(), minlength=resamples * count).reshape(resamples, count)
    weights = multiplicity.astype(np.float64)
    weights.flags.writeable = False
    return weights


def ratio(amounts: np.ndarray, sizes: np.ndarray, seed: int = 0, units: np.ndarray | None = None) -> Estimate:
    """Sum of amounts over sum of sizes: a mean over samples, resampled by unit.

    The paired difference of two methods is `ratio(a - b, sizes)`.

    Args:
        amounts: (n,), e.g. the hits of each episode.
        sizes: (n,), e.g. the steps of each episode. Units of size 0 are ignored.
        seed: seed of the resampling.
        units: (n,) int64, the unit of each entry, e.g. the episodes of n clips; None for a unit each.

    Returns:
        The estimate; without interval where fewer than two units have a size, NaN where none has.
    """
    amounts, sizes = np.asarray(amounts, np.float64), np.asarray(sizes, np.float64)
    if units is not None:
        _, units = np.unique(units, return_inverse=True)
        amounts, sizes = np.bincount(units, amounts), np.bincount(units, sizes)
    amounts, sizes = amounts[sizes > 0], sizes[sizes > 0]
    if len(sizes) < 2:
        return Estimate(float(amounts[0] / sizes[0]) if len(sizes) else float("nan"))
    return estimate_from(amounts.sum() / sizes.sum(), _resampled(amounts, sizes, seed))


def difference(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], seed: int = 0) -> Estimate:
    """The first ratio minus the second, of independent units.

    Args:
        first, second: amounts and sizes, as in `ratio`.
        seed: seed of the resampling; the second is resampled with the next seed.

    Returns:
        The estimate; without interval where either has fewer than two units with a size, NaN where one has none.
    """
    ratios, too_few = [], False
    for i, (amounts, sizes) in enumerate((first, second)):
        amounts, sizes = np.asarray(amounts, np.float64), np.asarray(sizes, np.float64)
        amounts, sizes = amounts[sizes > 0], sizes[sizes > 0]
        if not len(sizes):
            return Estimate(float("nan"))
        too_few |= len(sizes) < 2
        ratios.append((amounts.sum() / sizes.sum(), _resampled(amounts, sizes, seed + i)))
    mean, resampled = ratios[0][0] - ratios[1][0], ratios[0][1] - ratios[1][1]
    return Estimate(float(mean)) if too_few else estimate_from(mean, resampled)


def bootstrap(statistic: Callable[[np.ndarray], float], units: np.ndarray, seed: int = 0) -> Estimate:
    """Estimate any statistic of weighted samples.

    Args:
        statistic: takes the weight of each sample, (S,) float64.
        units: (S,) int64 in [0, N), the unit of each sample.
        seed: seed of the resampling.
    """
    weights = resample_weights(int(units.max()) + 1, seed)
    values = np.asarray([statistic(row[units]) for row in weights])
    return estimate_from(statistic(np.ones(len(units))), values[np.isfinite(values)])


def bootstrap_units(statistic: Callable[[np.ndarray], np.ndarray], num_units: int, seed: int = 0) -> Estimate:
    """Estimate a statistic of weighted units, computed for all resamples at once; without interval of a single unit.

    Args:
        statistic: takes the weights of the units, (n, N) float64, and returns (n,); NaN where it is undefined.
        num_units: N.
        seed: seed of the resampling.
    """
    value = float(statistic(np.ones((1, num_units)))[0])
    if num_units < 2:
        return Estimate(value)
    values = statistic(resample_weights(num_units, seed))
    return estimate_from(value, values[np.isfinite(values)])


def average_precision(scores: np.ndarray, truth: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Area under the precision-recall steps; samples of equal score enter together.

    Args:
        scores: (S,).
        truth: (S,) bool.
        weight: (S,); None for 1 each.

    Returns:
        In [0, 1]; the base rate for constant scores. NaN without a true sample.
    """
    return AveragePrecision(scores, truth)(np.ones(len(scores)) if weight is None else weight)


class AveragePrecision:
    """`average_precision` for many weightings of the same samples, which are sorted once."""

    def __init__(self, scores: np.ndarray, truth: np.ndarray) -> None:
        self._order = np.argsort(-np.asarray(scores), kind="stable")
        ordered = np.asarray(scores)[self._order]
        self._truth = np.asarray(truth, np.float64)[self._order]
        self._last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # of each run of equal scores

    def __call__(self, weight: np.ndarray) -> float:
        """Average precision under weights (S,)."""
        ordered = weight[self._order]
        found, retrieved = np.cumsum(ordered * self._truth)[self._last], np.cumsum(ordered)[self._last]
        if not len(found) or found[-1] <= 0:
            return float("nan")
        gained = np.diff(found, prepend=0.0)
        return float((gained * found / np.maximum(retrieved, 1e-12)).sum() / found[-1])


def calibration_error(
    scores: np.ndarray, truth: np.ndarray, weight: np.ndarray | None = None, bins: int = BINS
) -> float:
    """Expected calibration error: |mean score - share of true samples|, averaged over bins of equal mass.

    Samples of equal score share the bin of their middle, so that the result does not depend on the order of samples:
    a constant score that equals the share of true samples has error 0. The error is never negative and resampling
    adds noise to every bin, so that its bootstrap is biased upward: the interval of a small error may lie above it.

    Args:
        scores: (S,) probabilities.
        truth: (S,) bool.
        weight: (S,); None for 1 each. The bins do not depend on it.
        bins: number of bins; fewer where there are fewer distinct scores.
    """
    return CalibrationError(scores, truth, bins)(np.ones(len(scores)) if weight is None else weight)


class CalibrationError:
    """`calibration_error` for many weightings of the same samples, which are binned once."""

    def __init__(self, scores: np.ndarray, truth: np.ndarray, bins: int = BINS) -> None:
        _, which, count = np.unique(scores, return_inverse=True, return_counts=True)
        end = np.cumsum(count)  # of each run of equal scores among all, in ascending order
        bins = min(bins, len(which))
        self._bin = ((2 * end - count - 1) * bins // (2 * max(1, len(which))))[which]  # (S,)
        self._gap = np.asarray(scores, np.float64) - np.asarray(truth, np.float64)

    def __call__(self, weight: np.ndarray) -> float:
        """Calibration error under weights (S,)."""
        return float(np.abs(np.bincount(self._bin, weight * self._gap)).sum() / weight.sum())


def _resampled(amounts: np.ndarray, sizes: np.ndarray, seed: int) -> np.ndarray:
    """The ratio in each resample, (R,)."""
    weights = resample_weights(len(sizes), seed)
    return (weights @ amounts) / (weights @ sizes)


def estimate_from(value: float, resampled: np.ndarray) -> Estimate:
    """A value with the interval of its resampled values; without interval where there are none."""
    if not len(resampled):
        return Estimate(float(value))
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high))
