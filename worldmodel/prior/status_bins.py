"""Values of the hidden status variable as bins."""

from __future__ import annotations

import numpy as np

from worldmodel.prior.status_config import StatusConfig


def status_bins(config: StatusConfig, values: np.ndarray) -> np.ndarray:
    """Bin of each value, int64 of the same shape; zeros where no status is learned."""
    if not config.variable:
        return np.zeros(values.shape, np.int64)
    return np.digitize(values, np.asarray(config.edges)).astype(np.int64)
