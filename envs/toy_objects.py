"""The rule that finds the agent in frames of the toy environment, also in blurred ones."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from worldmodel.envs.toy import CALM, HIT, SAFE, SIDE

TOLERANCE = 60  # levels by which each colour of a pixel may differ


def find_agents(frame: np.ndarray) -> list[tuple[str, float, float]]:
    """The places of the grid of which most pixels have one of the agent's colours.

    Args:
        frame: (H, W, 3) uint8, H and W at least 4.

    Returns:
        ("agent", row, column) of the centre of each place, in pixels.
    """
    height, width, _ = frame.shape
    differences = np.abs(frame[:, :, None].astype(int) - np.asarray((CALM, SAFE, HIT)))  # (H, W, 3 colours, 3)
    is_agent = (differences.max(-1) <= TOLERANCE).any(-1).astype(float)  # (H, W)
    rows, columns = (np.linspace(0, side, SIDE + 1).round().astype(int) for side in (height, width))
    found = []
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            if is_agent[top:bottom, left:right].mean() > 0.5:
                found.append(("agent", (top + bottom - 1) / 2, (left + right - 1) / 2))
    return found
