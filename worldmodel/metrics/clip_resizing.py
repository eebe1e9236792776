"""Clips as the input of a network: resized and scaled.

Three methods of resizing are in use for the Frechet video distance; the scores that follow differ.

Shapes: N clips, T frames, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.common.errors import unknown_name


def _crop(frames: Tensor, size: int) -> Tensor:
    """The short side to `size`, then the central square: (n, 3, H, W)."""
    rows, columns = frames.shape[2:]
    short = min(rows, columns)
    target = [math.ceil(side * size / short) for side in (rows, columns)]
    frames = F.interpolate(frames, target, mode="bilinear", align_corners=False)
    top, left = ((side - size) // 2 for side in target)
    return frames[:, :, top : top + size, left : left + size]


def _stretch(frames: Tensor, size: int) -> Tensor:
    """Both sides to `size`: (n, 3, H, W)."""
    return F.interpolate(frames, (size, size), mode="bilinear", align_corners=False)


def _tensorflow_1(frames: Tensor, size: int) -> Tensor:
    """Both sides to `size`, output pixel i read at i * H / size instead of at its centre: (n, 3, H, W)."""
    for axis in (2, 3):
        length = frames.shape[axis]
        position = torch.arange(size, device=frames.device, dtype=torch.float32) * (length / size)
        low = position.floor().long().clamp_max(length - 1)
        share = (position - low).view((-1, 1) if axis == 2 else (-1,))
        high = (low + 1).clamp_max(length - 1)
        frames = frames.index_select(axis, low) * (1 - share) + frames.index_select(axis, high) * share
    return frames


RESIZING: dict[str, tuple[str, Callable[[Tensor, int], Tensor]]] = {
    "crop": ("bilinear (half-pixel centres), short side, central square", _crop),
    "stretch": ("bilinear (half-pixel centres), both sides", _stretch),
    "tensorflow1": ("bilinear as in TensorFlow 1 (pixel corners), both sides", _tensorflow_1),
}


def network_input(clips: Tensor, size: int, resizing: str) -> Tensor:
    """Resize clips and scale them to [-1, 1].

    Args:
        clips: (N, T, H, W, 3) uint8.
        size: H and W of the result.
        resizing: a row of `RESIZING`.

    Returns:
        (N, 3, T, size, size) float32 on the device of the clips; not rounded after the resizing.

    Raises:
        UserError: an unknown resizing.
    """
    if resizing not in RESIZING:
        raise unknown_name("resizing", resizing, RESIZING)
    num, length = clips.shape[:2]
    frames = clips.flatten(0, 1).movedim(-1, 1).float()  # (N*T, 3, H, W)
    frames = RESIZING[resizing][1](frames, size) / 127.5 - 1
    return frames.unflatten(0, (num, length)).transpose(1, 2)  # (N, 3, T, size, size)
