"""The one preprocessing of pixels: area averaging to a size, then a crop.

A leaf: needs numpy and Pillow only, and anyone may import it. H, W are rows and columns.
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


@dataclass(frozen=True)
class PixelSpec:
    """How a rendered screen becomes a frame. Stored in datasets and in worlds.

    Attributes:
        size: (H, W) of the whole picture after area averaging.
        crop: (top, bottom, left, right) kept of that picture, in its pixels; None keeps all.
    """

    size: tuple[int, int] = (64, 64)
    crop: Crop | None = None

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise UserError(f"size={self.size}: wanted two positive numbers, rows and columns.")
        if self.crop is not None:
            top, bottom, left, right = self.crop
            if not (0 <= top < bottom <= self.size[0] and 0 <= left < right <= self.size[1]):
                raise UserError(
                    f"crop={self.crop} does not lie inside size={self.size}: wanted "
                    "0 <= top < bottom <= rows and 0 <= left < right <= columns."
                )

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """(H, W, 3) of a finished frame."""
        if self.crop is None:
            return (*self.size, 3)
        top, bottom, left, right = self.crop
        return (bottom - top, right - left, 3)

    def cropped(self, crop: Crop) -> PixelSpec:
        """The spec of frames of which a part is kept: (top, bottom, left, right) in the frames' own pixels.

        Raises:
            UserError: the part does not lie inside the frame.
        """
        height, width, _ = self.frame_shape
        PixelSpec((height, width), crop)  # checks
        top, left = (0, 0) if self.crop is None else (self.crop[0], self.crop[2])
        return PixelSpec(self.size, (top + crop[0], top + crop[1], left + crop[2], left + crop[3]))

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

    Where the screen's size is a whole multiple of the frame's, each pixel is the rounded mean of an exact
    box; otherwise a pixel at the edge of a box counts by the share of it that lies inside.

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
    """Rounded means of boxes whose edges cut through pixels: (rows, columns, 3) -> (height, width, 3)."""
    down, across = _shares(screen.shape[0], height), _shares(screen.shape[1], width)
    means = np.einsum("hr,rcx->hcx", down, screen.astype(np.float32), optimize=True)
    means = np.einsum("wc,hcx->hwx", across, means, optimize=True)
    return np.clip(np.rint(means), 0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=16)
def _shares(count: int, boxes: int) -> np.ndarray:
    """(boxes, count) float32: the share of each pixel in the mean of each box; rows sum to 1."""
    edges = np.arange(boxes + 1) * count / boxes
    pixels = np.arange(count)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.clip(overlap, 0, None) * boxes / count).astype(np.float32)
