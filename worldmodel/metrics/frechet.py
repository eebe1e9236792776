"""The Frechet distance between two sets of feature vectors, from accumulated means and covariances.

Metrics that differ in their features alone (pixels, motion, a learned network) share this module.

Shapes: N vectors, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class GaussianStatistics:
    """Mean and covariance of a set of vectors, accumulated in float64 batch by batch.

    Attributes:
        count: N so far.
        mean: (F,).
        scatter: (F, F), the sum of outer products of the differences from the mean.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def empty(cls, num_features: int) -> GaussianStatistics:
        """Of no vectors of F features."""
        return cls(0, np.zeros(num_features), np.zeros((num_features, num_features)))

    def update(self, features: np.ndarray) -> None:
        """Add vectors: (n, F), any n."""
        if len(features):
            features = np.asarray(features, np.float64)
            mean = features.mean(0)
            self._add(len(features), mean, (features - mean).T @ (features - mean))

    def merged(self, other: GaussianStatistics) -> GaussianStatistics:
        """The statistics of both sets together."""
        both = GaussianStatistics(self.count, self.mean.copy(), self.scatter.copy())
        both._add(other.count, other.mean, other.scatter)
        return both

    def _add(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        """Add another set, given by its statistics (Chan et al. 1979)."""
        total = self.count + count
        if count:
            difference = mean - self.mean
            self.scatter += scatter + np.outer(difference, difference) * (self.count * count / total)
            self.mean = self.mean + difference * (count / total)
            self.count = total

    @property
    def covariance(self) -> np.ndarray:
        """(F, F), with the divisor N-1; zeros for fewer than two vectors."""
        return self.scatter / max(1, self.count - 1)


def frechet_distance(first: GaussianStatistics, second: GaussianStatistics) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), of the Gaussians with these means and covariances.

    This is the squared 2-Wasserstein distance (Dowson and Landau 1982), as in FID and FVD.

    Returns:
        0 or more; NaN where a set has fewer than two vectors.
    """
    if min(first.count, second.count) < 2:
        return float("nan")
    # tr (S1 S2)^(1/2) = sum of the roots of the eigenvalues of S1^(1/2) S2 S1^(1/2), which is symmetric
    root = _symmetric_root(first.covariance)
    eigenvalues = np.linalg.eigvalsh(root @ second.covariance @ root)
    cross = np.sqrt(eigenvalues.clip(0)).sum()
    difference = first.mean - second.mean
    distance = difference @ difference + np.trace(first.covariance) + np.trace(second.covariance) - 2 * cross
    return max(0.0, float(distance))


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    """The square root of a symmetric matrix without negative eigenvalues, up to rounding."""
    eigenvalues, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(eigenvalues.clip(0))) @ vectors.T
