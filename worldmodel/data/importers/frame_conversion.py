"""Frames of other formats as RGB frames of this package."""

from __future__ import annotations

from typing import Literal

import numpy as np

from worldmodel.common.pixels import PixelSpec, to_frame


def fit_frame(frame: np.ndarray, size: tuple[int, int], fit: Literal["crop", "stretch"]) -> np.ndarray:
    """Resize a frame by area averaging.

    Args:
        frame: (rows, columns, 3) uint8.
        size: (H, W) of the result.
        fit: "crop" keeps the largest part in the centre that has the aspect ratio of `size`, which is scaling of the
            short side followed by a crop of the centre; "stretch" keeps the whole frame.

    Returns:
        A new array (H, W, 3) uint8.
    """
    if fit == "crop":
        rows, columns = frame.shape[:2]
        scale = min(rows / size[0], columns / size[1])
        height, width = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        top, left = (rows - height) // 2, (columns - width) // 2
        frame = frame[top : top + height, left : left + width]
    return to_frame(frame, PixelSpec(size))


def fit_frames(frames: np.ndarray, size: tuple[int, int], fit: Literal["crop", "stretch"]) -> np.ndarray:
    """Resize (T+1, rows, columns, 3) uint8 to (T+1, H, W, 3); unchanged if it has that size."""
    if frames.shape[1:3] == size:
        return frames
    fitted = np.empty((len(frames), *size, 3), np.uint8)
    for i, frame in enumerate(frames):
        fitted[i] = fit_frame(frame, size, fit)
    return fitted
