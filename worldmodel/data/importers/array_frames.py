"""Frames in arrays of other programs: dtypes, layouts of channels, and stacks of past frames.

Shapes: N frames of H x W pixels, C channels.
"""

from __future__ import annotations

import numpy as np

from worldmodel.common.errors import UserError

MAX_CHANNELS = 48  # of stacked frames
ROWS = 64  # frames that are converted at once
WANTED = (
    "(T+1, H, W, 3), (T+1, 3, H, W), grey (T+1, H, W), or stacked frames (T+1, k, H, W, C); integers in 0 .. 255 or "
    "floats in [0, 1]; at least two frames"
)


def frames_from_array(array: np.ndarray, where: str) -> np.ndarray:
    """Frames of any layout and dtype as RGB frames.

    Channels are last or first. Three channels are RGB, one is grey, four of which the last one is constant at the
    maximum are RGB with alpha. Other numbers of channels are stacked frames, the newest last: RGB if the number is a
    multiple of three, otherwise grey. With five axes the second one is the stack, the newest last.

    Args:
        array: N frames; integers in 0 .. 255 or floats in [0, 1].
        where: the subject of error messages.

    Returns:
        (N, H, W, 3) uint8; the array itself if it is that.

    Raises:
        UserError: another shape or dtype, fewer than two frames, or values out of range.
    """
    fail = UserError(f"{where} has shape {array.shape} {array.dtype}; wanted {WANTED}.")
    if array.ndim not in (3, 4, 5) or array.dtype.kind not in "iuf" or len(array) < 2 or 0 in array.shape:
        raise fail
    newest = array[:, -1] if array.ndim == 5 else array  # (N, ...)
    if newest.ndim == 3:
        newest = newest[..., None]  # (N, H, W, 1)
    axis = channel_axis(newest.shape)
    if axis is None:
        raise fail
    newest = newest if axis == 3 else newest.transpose(0, 2, 3, 1)  # (N, H, W, C)
    channels = newest.shape[3]
    if channels == 4 and _has_alpha(newest):
        newest = newest[..., :3]
    elif channels != 3:
        newest = newest[..., -3:] if channels % 3 == 0 else newest[..., -1:]
    if newest.dtype == np.uint8 and newest.shape[3] == 3:
        return np.ascontiguousarray(newest)
    frames = np.empty((*newest.shape[:3], 3), np.uint8)
    for start in range(0, len(newest), ROWS):
        frames[start : start + ROWS] = _to_uint8(newest[start : start + ROWS], where)
    return frames


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """The axis of the channels of (N, H, W, C) or (N, C, H, W): 3 or 1; None for no such shape."""
    for counts in ((1, 3, 4), range(2, MAX_CHANNELS + 1)):
        for axis in (3, 1):
            others = (shape[1], shape[2]) if axis == 3 else (shape[2], shape[3])
            if shape[axis] in counts and shape[axis] <= min(others):
                return axis
    return 3 if shape[3] in (1, 3) else None


def _has_alpha(frames: np.ndarray) -> bool:
    """Whether the last of four channels is constant at the maximum."""
    return bool((frames[..., 3] == (1 if frames.dtype.kind == "f" else 255)).all())


def _to_uint8(frames: np.ndarray, where: str) -> np.ndarray:
    """Integers in 0 .. 255, or floats in [0, 1], as uint8."""
    low, high = frames.min(), frames.max()
    is_float = frames.dtype.kind == "f"
    if not (low >= 0 and high <= (1 if is_float else 255)):  # NaN is refused too
        remedy = "floats in [0, 1]; divide by 255 or convert to uint8" if is_float else "integers in 0 .. 255"
        raise UserError(f"{where} has values in {low:g} .. {high:g}; wanted {remedy}.")
    return np.rint(frames * np.float32(255)).astype(np.uint8) if is_float else frames.astype(np.uint8)
