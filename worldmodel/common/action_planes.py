"""The last action as an input of a policy: constant planes behind the stacked frames of an observation.

The observation stays one uint8 image, so everything that handles images handles it. A network needs one pixel of each
plane. Needs numpy only. Shapes: N rows, h w of an observation, C channels, A numbers per action, P planes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.common.errors import UserError
from worldmodel.common.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space


@dataclass(frozen=True)
class ActionPlanes:
    """Actions of a space as numbers from 0 to 255: 0 everywhere stands for "no action yet".

    Discrete and MultiDiscrete: one plane per choice, 255 for the chosen one. MultiBinary: two planes per button, for
    released and pressed. Box: one plane per component, 1 at its lower and 255 at its upper bound.

    Attributes:
        space: the action space.

    Raises:
        UserError: a Box without bounds.
    """

    space: Space

    def __post_init__(self) -> None:
        if isinstance(self.space, Box) and not np.isfinite(self.space.bounds()).all():
            raise UserError(f"last_action=True needs an action space with bounds, not {self.space}.")

    @property
    def count(self) -> int:
        """P."""
        if isinstance(self.space, Box):
            return len(self.space.low)
        return int(sum(self._choices()))

    def _choices(self) -> tuple[int, ...]:
        """The number of choices of each component."""
        if isinstance(self.space, Discrete):
            return (self.space.n,)
        if isinstance(self.space, MultiDiscrete):
            return self.space.nvec
        return (2,) * self.space.n if isinstance(self.space, MultiBinary) else ()

    def encode(self, actions: Any) -> np.ndarray:
        """Values of the planes: (*space.shape) -> (P,), or (N, *space.shape) -> (N, P); uint8."""
        array = np.asarray(actions)
        if isinstance(self.space, Box):
            low, high = (bound.astype(np.float64) for bound in self.space.bounds())
            share = (array - low) / np.maximum(high - low, np.finfo(np.float64).tiny)
            return np.rint(1 + 254 * share.clip(0, 1)).astype(np.uint8)
        columns = array[..., None] if isinstance(self.space, Discrete) else array
        one_hot = [columns[..., i, None] == np.arange(n) for i, n in enumerate(self._choices())]
        return np.concatenate(one_hot, -1).astype(np.uint8) * np.uint8(255)

    def append_action(self, frames: np.ndarray, action: Any) -> np.ndarray:
        """`append` for one row: (h, w, C) -> (h, w, C+P); an action of None is "no action yet"."""
        return self.append(frames, np.zeros(self.count, np.uint8) if action is None else self.encode(action))

    def append(self, frames: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Put the planes behind stacked frames.

        Args:
            frames: (h, w, C) or (N, h, w, C) uint8.
            values: (P,) or (N, P) uint8, from `encode`; zeros before the first action.

        Returns:
            (h, w, C+P) or (N, h, w, C+P) uint8, a new array.
        """
        planes = np.broadcast_to(values[..., None, None, :], (*frames.shape[:-1], self.count))
        return np.concatenate([frames, planes], -1)
