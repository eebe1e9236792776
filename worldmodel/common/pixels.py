"""The one preprocessing of pixels: area averaging to a size, then a crop.

Needs numpy and Pillow only. Shapes: H, W are rows and columns.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from worldmodel.common.errors import UserError
from worldmodel.common.policy_view import FrameStack as FrameStack  # moved there

Crop = tuple[int, int, int, int]
MAX_SIDE = 8192  # rows or columns


@dataclass(frozen=True)
class PixelSpec:
    """How a rendered screen becomes a frame. Stored in datasets and in worlds.

    Attributes:
        size: (H, W) of the whole screen after area averaging.
        crop: (top, bottom, left, right) of the part that is kept, in pixels of `size`; None keeps all.

    Raises:
        UserError: a size below 1 or above 8192, or a crop that is not inside `size`.
    """

    size: tuple[int, int] = (64, 64)
    crop: Crop | None = None

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise UserError(f"size={self.size}: wanted two positive numbers, rows and columns.")
        if max(self.size) > MAX_SIDE:
            raise UserError(f"size={self.size}: wanted at most {MAX_SIDE} rows and columns.")
        if self.crop is not None:
            top, bottom, left, right = self.crop
            if not (0 <= top < bottom <= self.size[0] and 0 <= left < right <= self.size[1]):
                raise UserError(
                    f"crop={self.crop} is not inside size={self.size}: wanted "
                    "0 <= top < bottom <= rows and 0 <= left < right <= columns."
                )

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """(H, W, 3) of a frame, after the crop."""
        if self.crop is None:
            return (*self.size, 3)
        top, bottom, left, right = self.crop
        return (bottom - top, right - left, 3)

    @property
    def origin(self) -> tuple[int, int]:
        """Row and column of the frame's first pixel in the whole screen of `size`."""
        return (0, 0) if self.crop is None else (self.crop[0], self.crop[2])

    def cropped(self, crop: Crop) -> PixelSpec:
        """The spec after one more crop of the frames.

        Args:
            crop: (top, bottom, left, right) in pixels of the frames.

        Raises:
            UserError: the crop is not inside the frame.
        """
        height, width, _ = self.frame_shape
        PixelSpec((height, width), crop)  # checks the crop
        top, left = self.origin
        return PixelSpec(self.size, (top + crop[0], top + crop[1], left + crop[2], left + crop[3]))

    def crop_to(self, wanted: PixelSpec) -> Crop | None:
        """The crop that turns frames of this spec into frames of `wanted`.

        Returns:
            (top, bottom, left, right) in pixels of the frames; None if the frames are equal already, or if those of
            `wanted` are not a part of them.
        """
        if wanted.crop is None or wanted == self or wanted.size != self.size:
            return None
        height, width, _ = self.frame_shape
        row, column = self.origin
        top, bottom, left, right = wanted.crop
        crop = (top - row, bottom - row, left - column, right - column)
        if 0 <= crop[0] < crop[1] <= height and 0 <= crop[2] < crop[3] <= width:
            return crop
        return None

    def to_json(self) -> dict[str, Any]:
        """{"size": [H, W], "crop": [top, bottom, left, right] or null}."""
        return {"size": list(self.size), "crop": None if self.crop is None else list(self.crop)}

    @staticmethod
    def from_json(spec: dict[str, Any]) -> PixelSpec:
        """The inverse of `to_json`."""
        crop = spec["crop"]
        size = tuple(spec["size"])
        return PixelSpec((size[0], size[1]), None if crop is None else (crop[0], crop[1], crop[2], crop[3]))


def to_frame(screen: np.ndarray, spec: PixelSpec) -> np.ndarray:
    """Turn a rendered screen into a frame by area averaging and the crop.

    If the size of the screen is an integer multiple of the size of the frame, each pixel is the rounded mean of an
    exact box. Otherwise a pixel at the edge of a box is weighted by the share of it that is inside the box.

    Args:
        screen: (rows, columns, 3) uint8.
        spec: size and crop.

    Returns:
        A new array of `spec.frame_shape`, uint8.

    Raises:
        UserError: the screen is not uint8 RGB.
    """
    if screen.dtype != np.uint8 or screen.ndim != 3 or screen.shape[2] != 3:
        raise UserError(f"a screen must be (rows, columns, 3) uint8 RGB; got {screen.shape} {screen.dtype}.")
    height, width = spec.size
    rows, columns = screen.shape[:2]
    if (rows, columns) != (height, width):
        if spec.crop is not None and rows % height == 0 and columns % width == 0:
            top, bottom, left, right = spec.crop
            y, x = rows // height, columns // width
            screen = screen[top * y : bottom * y, left * x : right * x]
            return _average(screen, y, x)
        if rows % height == 0 and columns % width == 0:
            return _average(screen, rows // height, columns // width)
        screen = _average_weighted(screen, height, width)
    if spec.crop is None:
        return np.array(screen)
    top, bottom, left, right = spec.crop
    return np.array(screen[top:bottom, left:right])


def _average(screen: np.ndarray, y: int, x: int) -> np.ndarray:
    """Rounded means of exact y x x boxes: (H*y, W*x, 3) -> (H, W, 3)."""
    return np.array(Image.fromarray(np.ascontiguousarray(screen)).reduce((x, y)))


def _average_weighted(screen: np.ndarray, height: int, width: int) -> np.ndarray:
    """Rounded means of boxes with fractional edges: (rows, columns, 3) -> (height, width, 3)."""
    down, across = _box_weights(screen.shape[0], height), _box_weights(screen.shape[1], width)
    means = np.einsum("hr,rcx->hcx", down, screen.astype(np.float32), optimize=True)
    means = np.einsum("wc,hcx->hwx", across, means, optimize=True)
    return np.clip(np.rint(means), 0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=16)
def _box_weights(count: int, boxes: int) -> np.ndarray:
    """(boxes, count) float32: the weight of each pixel in the mean of each box; rows sum to 1."""
    edges = np.arange(boxes + 1) * count / boxes
    pixels = np.arange(count)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.clip(overlap, 0, None) * boxes / count).astype(np.float32)
