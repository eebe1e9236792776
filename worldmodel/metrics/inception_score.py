"""The Inception Score of clips (Salimans et al. 2016, arXiv 1606.03498, section 4) with any classifier.

Shapes: N clips, V classes.
"""

from __future__ import annotations

import numpy as np

from worldmodel.metrics.clip_metric import ClipMetric
from worldmodel.metrics.clip_protocols import ClipNetworks
from worldmodel.metrics.feature_distances import GENERATED, REAL, FeatureAccumulator
from worldmodel.metrics.metric import MetricValue
from worldmodel.metrics.statistics import Estimate


def inception_score(logits: np.ndarray) -> float:
    """exp of the mean Kullback-Leibler divergence of the classes of a clip from those of all clips.

    Args:
        logits: (N, V).

    Returns:
        In [1, V]: 1 where all clips have the same classes; V where every clip has one class, and all are equally
        frequent. NaN without clips.
    """
    if not len(logits):
        return float("nan")
    logits = np.asarray(logits, np.float64)
    log_probs = logits - logits.max(1, keepdims=True)
    log_probs = log_probs - np.log(np.exp(log_probs).sum(1, keepdims=True))
    probs = np.exp(log_probs)
    log_mean = np.log(np.maximum(probs.mean(0), np.finfo(np.float64).tiny))
    return float(np.exp((probs * (log_probs - log_mean)).sum(1).mean()))


class InceptionScore(FeatureAccumulator):
    """The score of generated clips, with that of real clips as baseline."""

    def compute(self) -> list[MetricValue]:
        """As `ClipAccumulator.compute`."""
        scores = {side: inception_score(self.vectors(side)) for side in (REAL, GENERATED)}
        if not np.isfinite(list(scores.values())).all():
            return []
        return [MetricValue("", Estimate(scores[GENERATED]), {"real clips": Estimate(scores[REAL])})]

    def details(self) -> dict[str, str]:
        """As `ClipAccumulator.details`."""
        return {**super().details(), "splits": "one, of all clips"}


def make_inception_score(networks: ClipNetworks) -> InceptionScore:
    """The score with the classifier of the settings."""
    return InceptionScore(networks.logits)


CLIP_ROWS = (
    ClipMetric(
        "inception_score",
        "Inception Score with the classes of I3D or of --classifier",
        "classes",
        "higher",
        False,
        make_inception_score,
        default=False,
        uses_networks=True,
    ),
)
