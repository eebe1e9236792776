"""What an environment declares about its frames and actions, for metrics that need more than pixels.

The rules come from the environment's registry row, which this package does not import: the caller passes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

DetectedObject = tuple[str, float, float]  # kind, row and column of its centre in pixels
ObjectRule = Callable[[np.ndarray], list[DetectedObject]]


@dataclass(frozen=True)
class EnvironmentRules:
    """Rules of an environment.

    Attributes:
        objects: finds the small objects of a frame, (H, W, 3) uint8; None if the environment declares no rule.
        opposites: pairs of labels of actions that undo each other; LABEL=CHOICE for a component of a MultiDiscrete
            action, as ("turn=0", "turn=10").
    """

    objects: ObjectRule | None = None
    opposites: tuple[tuple[str, str], ...] = ()
