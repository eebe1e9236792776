"""The rule that finds the agent in frames of the toy environment, also in blurred ones."""

from __future__ import annotations

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
    differences = np.abs(frame[:, :, None].astype(int) - np.asarray((CALM, SAFE, HIT)))  # (H, W, 3 colours, 3)
    share, rows, columns = share_of_places((differences.max(-1) <= TOLERANCE).any(-1))
    return [
        ("agent", (rows[i] + rows[i + 1] - 1) / 2, (columns[j] + columns[j + 1] - 1) / 2)
        for i, j in np.argwhere(share > 0.5)
    ]


def share_of_places(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of the pixels of each place that a mask (H, W) contains, H and W at least 4.

    Returns:
        (4, 4) float64, and the borders of the rows and of the columns of places in pixels, (5,) int64 each.
    """
    rows, columns = (np.linspace(0, side, SIDE + 1).round().astype(int) for side in mask.shape)
    count = np.add.reduceat(np.add.reduceat(mask.astype(float), rows[:-1], 0), columns[:-1], 1)
    return count / np.outer(np.diff(rows), np.diff(columns)), rows, columns
