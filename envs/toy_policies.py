"""A scripted policy of the toy environment that needs only the frames, so it acts in dreams too."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldmodel.common.spaces import Box, Space
from worldmodel.envs.toy import FLASH, SIDE
from worldmodel.envs.toy_objects import TOLERANCE, find_agents, share_of_places

# discrete action -> continuous action
_VECTORS = ((0.0, 0.0), (0.0, -1.0), (0.0, 1.0), (-1.0, 0.0), (1.0, 0.0))


class ShelterPolicy:
    """Walks into the quarter that flashed last, and stays there. In the environment its return is the optimum, 10.

    Args:
        space: Discrete(5) or Box(2).
        env: ignored.
    """

    def __init__(self, space: Space, env: Any = None) -> None:
        self.space = space

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode."""
        self.shelter: int | None = None

    def act(self, frame: np.ndarray) -> Any:
        """One step towards the shelter, rows first; stays where the agent or the shelter is not known."""
        flashing = find_flash(frame)
        self.shelter = self.shelter if flashing is None else flashing
        agents = find_agents(frame)
        move = 0
        if agents and self.shelter is not None:
            _, y, x = agents[0]
            row, column = int(y * SIDE / frame.shape[0]), int(x * SIDE / frame.shape[1])
            half_row, half_column = divmod(self.shelter, 2)
            if row // 2 != half_row:
                move = 2 if half_row else 1
            elif column // 2 != half_column:
                move = 4 if half_column else 3
        return np.asarray(_VECTORS[move], np.float32) if isinstance(self.space, Box) else move


def find_flash(frame: np.ndarray) -> int | None:
    """The quarter that is lit.

    Args:
        frame: (H, W, 3) uint8, H and W at least 4.

    Returns:
        0 to 3, or None where fewer than three places of one quarter are lit (the agent hides at most one).
    """
    share, _, _ = share_of_places(np.abs(frame.astype(int) - FLASH).max(-1) <= TOLERANCE)
    half = SIDE // 2
    lit = (share > 0.5).reshape(2, half, 2, half).sum((1, 3)).ravel()  # (4,), places of each quarter
    return int(lit.argmax()) if lit.max() >= 3 else None
