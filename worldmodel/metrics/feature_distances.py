"""Distances between two sets of clips by the features of a network: the Frechet and the kernel video distance.

Shapes: N clips, T frames, H W pixels, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from torch import Tensor

from worldmodel.metrics.clip_metric import ClipAccumulator, ClipMetric, State
from worldmodel.metrics.clip_protocols import ClipNetworks
from worldmodel.metrics.detectors import ClipFeatures
from worldmodel.metrics.frechet import frechet_of_features
from worldmodel.metrics.kernel_distance import DEGREE, kernel_distance
from worldmodel.metrics.metric import MetricValue
from worldmodel.metrics.statistics import Estimate

REAL, GENERATED = "real", "generated"
FEW = 256  # clips: a warning with fewer
FLOOR = "half of the real clips"


class FeatureAccumulator(ClipAccumulator):
    """A function of the features of two sets of clips, which are kept: F numbers a clip.

    Args:
        features: computes them.
    """

    def __init__(self, features: ClipFeatures) -> None:
        self.features = features
        self._found: dict[str, list[np.ndarray]] = {REAL: [], GENERATED: []}

    def update(self, clips: Tensor, is_real: bool) -> None:
        """As `ClipAccumulator.update`."""
        self._found[REAL if is_real else GENERATED].append(self.features(clips))

    def vectors(self, side: str) -> np.ndarray:
        """(N, F) float64 of one side; (0, 0) without clips."""
        return np.concatenate(self._found[side]) if self._found[side] else np.zeros((0, 0))

    def state(self) -> State:
        """As `ClipAccumulator.state`."""
        return {side: self.vectors(side) for side in self._found if self._found[side]}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """As `ClipAccumulator.load_state`."""
        self._found = {side: [state[side].copy()] if side in state else [] for side in (REAL, GENERATED)}

    def details(self) -> dict[str, str]:
        """As `ClipAccumulator.details`."""
        counts = {side: len(self.vectors(side)) for side in (REAL, GENERATED)}
        return {"clips": f"{counts[REAL]} real, {counts[GENERATED]} generated", **self.features.details()}


class FeatureDistance(FeatureAccumulator):
    """A distance between the features of two sets of clips.

    Its baseline, the noise floor, is the distance between the even and the odd real clips.

    Args:
        features: computes the features.
        distance: (N, F) and (M, F) -> number; NaN where there are too few.
        rules: what the distance depends on, for reports.
        is_biased: whether the distance of equal distributions is above 0 for few clips.
    """

    def __init__(
        self,
        features: ClipFeatures,
        distance: Callable[[np.ndarray, np.ndarray], float],
        rules: Mapping[str, str],
        is_biased: bool,
    ) -> None:
        super().__init__(features)
        self.distance, self.rules, self.is_biased = distance, dict(rules), is_biased

    def compute(self) -> list[MetricValue]:
        """As `ClipAccumulator.compute`."""
        real, generated = self.vectors(REAL), self.vectors(GENERATED)
        value = self.distance(real, generated)
        if not np.isfinite(value):
            return []
        floor = self.distance(real[::2], real[1::2])
        return [MetricValue("", Estimate(value), {FLOOR: Estimate(floor)} if np.isfinite(floor) else {})]

    def details(self) -> dict[str, str]:
        """As `ClipAccumulator.details`."""
        return {**super().details(), **self.rules}

    def warnings(self) -> list[str]:
        """As `ClipAccumulator.warnings`."""
        fewest = min(len(self.vectors(side)) for side in (REAL, GENERATED))
        if fewest >= FEW:
            return []
        problem = "is biased upwards" if self.is_biased else "has a large deviation"
        return [
            f"{fewest} clips: a distance of sets of fewer than {FEW} clips {problem}. Compare it with the noise floor "
            "and with scores of the same number of clips only."
        ]


def make_fvd(networks: ClipNetworks) -> FeatureDistance:
    """The Frechet video distance (Unterthiner et al. 2018) by the protocol of the settings."""
    settings = networks.settings
    rules = {"protocol": settings.protocol, "covariance": f"divisor N-{settings.rules.ddof}"}
    return FeatureDistance(networks.features, partial(frechet_of_features, ddof=settings.rules.ddof), rules, True)


def make_kvd(networks: ClipNetworks) -> FeatureDistance:
    """The kernel video distance by the protocol of the settings."""
    rules = {"protocol": networks.settings.protocol, "kernel": f"polynomial of degree {DEGREE}, unbiased estimate"}
    return FeatureDistance(networks.features, kernel_distance, rules, False)


CLIP_ROWS = (
    ClipMetric(
        "fvd",
        "Frechet video distance of features of I3D or of --detector",
        "squared units of the features",
        "lower",
        False,
        make_fvd,
        default=False,
        uses_networks=True,
    ),
    ClipMetric(
        "kvd",
        "kernel video distance (squared maximum mean discrepancy) of the same features",
        "squared units of the kernel",
        "lower",
        False,
        make_kvd,
        default=False,
        uses_networks=True,
    ),
)
