"""The Frechet distance between two sets of feature vectors, from accumulated means and covariances.

Metrics that differ in their features alone (pixels, motion, a learned network) share this module.

Shapes: N vectors, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_NUCLEAR = 1000  # vectors: up to so many the distance is computed from singular values


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
    return _distance(first.mean, first.covariance, second.mean, second.covariance)


def frechet_of_features(first: np.ndarray, second: np.ndarray, ddof: int = 1) -> float:
    """The Frechet distance of two sets of feature vectors, in float64.

    Args:
        first, second: (N, F) and (M, F).
        ddof: the divisor of the covariances is the number of vectors minus this: 1 or 0.

    Returns:
        0 or more; NaN where a set has fewer than two vectors.
    """
    if min(len(first), len(second)) < 2:
        return float("nan")
    means, roots = [], []
    for features in (first, second):
        features = np.asarray(features, np.float64)
        means.append(features.mean(0))
        roots.append((features - means[-1]) / np.sqrt(len(features) - ddof))  # A with A^T A the covariance
    if max(len(first), len(second)) > MAX_NUCLEAR:
        return _distance(means[0], roots[0].T @ roots[0], means[1], roots[1].T @ roots[1])
    # tr (A^T A B^T B)^(1/2) is the sum of the singular values of A B^T: exact where covariances are singular
    cross = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    difference = means[0] - means[1]
    distance = difference @ difference + np.square(roots[0]).sum() + np.square(roots[1]).sum() - 2 * cross
    return max(0.0, float(distance))


def _distance(mean_1: np.ndarray, covariance_1: np.ndarray, mean_2: np.ndarray, covariance_2: np.ndarray) -> float:
    """The Frechet distance from means and covariances, by eigenvalues."""
    # tr (S1 S2)^(1/2) = sum of the roots of the eigenvalues of S1^(1/2) S2 S1^(1/2), which is symmetric
    root = _symmetric_root(covariance_1)
    eigenvalues = np.linalg.eigvalsh(root @ covariance_2 @ root)
    cross = np.sqrt(eigenvalues.clip(0)).sum()
    difference = mean_1 - mean_2
    distance = difference @ difference + np.trace(covariance_1) + np.trace(covariance_2) - 2 * cross
    return max(0.0, float(distance))


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    """The square root of a symmetric matrix without negative eigenvalues, up to rounding."""
    eigenvalues, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(eigenvalues.clip(0))) @ vectors.T
