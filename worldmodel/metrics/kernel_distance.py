"""The kernel distance between two sets of feature vectors (Binkowski et al. 2018, arXiv 1801.01401, section 3).

Unlike the Frechet distance it has an estimator without bias, so that small sets can be compared.

Shapes: N and M vectors, F features.
"""

from __future__ import annotations

import numpy as np

DEGREE = 3


def polynomial_kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(x y / F + 1)^3 for every pair of vectors: (N, F) and (M, F) -> (N, M)."""
    return (first @ second.T / first.shape[1] + 1) ** DEGREE


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """The squared maximum mean discrepancy with the polynomial kernel, estimated without bias, in float64.

    Args:
        first, second: (N, F) and (M, F).

    Returns:
        0 in expectation for equal distributions, so that it can be negative; NaN where a set has fewer than two
        vectors.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if min(len(first), len(second)) < 2:
        return float("nan")
    within = [_mean_of_pairs(polynomial_kernel(features, features)) for features in (first, second)]
    return float(sum(within) - 2 * polynomial_kernel(first, second).mean())


def _mean_of_pairs(kernel: np.ndarray) -> float:
    """The mean over pairs of different vectors: (N, N)."""
    count = len(kernel)
    return (kernel.sum() - np.trace(kernel)) / (count * (count - 1))
