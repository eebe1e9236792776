"""The rule that finds toys in a frame by colour: saturated blobs on the pale bin, without the crimson of the arm.

On 200 frames of the walk (`tests/test_push.py`, found within 6 pixels of the projected centre of mass): precision 0.98
(a blob is right if it matches any toy), recall 0.91 of the toys whose centre is visible. White toys are not found; toys
of similar colour that touch may count as one. In `push/goal` the magenta marker is found as a toy where it is visible:
precision 0.92 on 40 frames of random play, against 1.00 of the same measure in `push`.
"""

from __future__ import annotations

import numpy as np

MIN_SATURATION = 0.5  # chroma by greatest channel; the bin has at most 0.34
MIN_CHROMA = 45  # greatest minus least channel; the black parts of the arm have less
ARM_HUE = (0.945, 0.990)  # share of a turn; the crimson of the arm, in light and in shadow
MIN_AREA = 4 / 64**2  # of a blob, share of the frame: 4 pixels of 64 x 64
LARGE_AREA = 70 / 64**2  # a larger blob may be more than one toy
MIN_CORE_AREA = 6 / 64**2  # of a part of a large blob after the erosion


def find_toys(frame: np.ndarray) -> list[tuple[str, float, float]]:
    """Toys in a frame of the main camera.

    Args:
        frame: (H, W, 3) uint8.

    Returns:
        ("toy", row, column) of the centre of each blob; pixel (0, 0) has its centre at (0.5, 0.5).
    """
    mask = toy_pixels(frame)
    found = []
    for blob in _blobs(mask):
        if blob.sum() < MIN_AREA * mask.size:
            continue
        for part in _split(blob):
            rows, columns = np.nonzero(part)
            found.append(("toy", float(rows.mean()) + 0.5, float(columns.mean()) + 0.5))
    return found


def toy_pixels(frame: np.ndarray) -> np.ndarray:
    """Pixels with the colour of a toy, (H, W) bool, of a frame (H, W, 3) uint8."""
    red, green, blue = np.moveaxis(frame.astype(np.float32), -1, 0)
    greatest = np.maximum(np.maximum(red, green), blue)
    chroma = greatest - np.minimum(np.minimum(red, green), blue)
    divisor = np.maximum(chroma, 1)
    hue = np.where(
        greatest == red,
        (green - blue) / divisor % 6,
        np.where(greatest == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    is_arm = (hue > 6 * ARM_HUE[0]) & (hue < 6 * ARM_HUE[1])
    return (chroma >= MIN_CHROMA) & (chroma >= MIN_SATURATION * greatest) & ~is_arm


def _blobs(mask: np.ndarray) -> list[np.ndarray]:
    """Connected parts of a mask (4 neighbours), each (H, W) bool."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        padded = np.pad(labels, 1)
        neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
        spread = np.where(mask, np.maximum.reduce((labels, *neighbours)), 0)
        if np.array_equal(spread, labels):
            return [labels == label for label in np.unique(labels) if label > 0]
        labels = spread


def _split(blob: np.ndarray) -> list[np.ndarray]:
    """A blob, or the parts that an erosion leaves of a large one, if there are two or more."""
    if blob.sum() <= LARGE_AREA * blob.size:
        return [blob]
    parts = [part for part in _blobs(_eroded(blob)) if part.sum() >= MIN_CORE_AREA * blob.size]
    return parts if len(parts) > 1 else [blob]


def _eroded(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask with all 8 neighbours in it."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    shifts = [padded[r : r + height, c : c + width] for r in range(3) for c in range(3)]
    return np.logical_and.reduce(shifts)


def match(found: list[tuple[str, float, float]], positions: np.ndarray, radius: float = 6.0) -> list[tuple[int, int]]:
    """Pairs (index of a found object, index of a position), the closest first, each used once.

    Args:
        found: as `find_toys` returns them.
        positions: (N, 2) row and column.
        radius: greatest distance of a pair, pixels.
    """
    if not found or not len(positions):
        return []
    points = np.array([(row, column) for _, row, column in found])
    distances = np.linalg.norm(points[:, None] - positions[None], axis=2)
    pairs = []
    while distances.min() <= radius:
        first, second = np.unravel_index(distances.argmin(), distances.shape)
        pairs.append((int(first), int(second)))
        distances[first], distances[:, second] = np.inf, np.inf
    return pairs
