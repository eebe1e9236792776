"""Diversity: how much samples of the same condition differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def sample_spread(samples: np.ndarray) -> float:
    """Spread of samples of one condition in grey levels, 0 to 255.

    The square root of the mean variance of a pixel (divisor S - 1), over all pixels of all frames.

    Args:
        samples: (S, L, H, W, 3) uint8, S >= 2, without the frames that were given.
    """
    return float(np.sqrt(samples.astype(np.float64).var(0, ddof=1).mean()))


def mean_spread(samples: np.ndarray, conditions: Sequence[object]) -> tuple[float, int] | None:
    """The mean spread over the conditions that have at least two samples, and the number of their samples.

    Args:
        samples: (N, L, H, W, 3) uint8, without the frames that were given.
        conditions: N hashable values, equal where samples have the same condition.

    Returns:
        None if each condition has one sample, or there are no frames.
    """
    groups = [[i for i, other in enumerate(conditions) if other == condition] for condition in set(conditions)]
    groups = [group for group in groups if len(group) > 1]
    if not groups or not samples.shape[1]:
        return None
    return float(np.mean([sample_spread(samples[group]) for group in groups])), sum(map(len, groups))
