"""What a policy observes: a part of each frame, stacked over the last time steps.

Needs numpy only. Shapes: N rows, H W size of a frame, h w size of the view, C channels of a frame (3), D frames in a
stack. All functions work on single frames (H, W, C) and on batches (N, H, W, C).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldmodel.common.errors import UserError

Rectangle = tuple[int, int, int, int]  # top, bottom, left, right


@dataclass(frozen=True)
class PolicyView:
    """The part of a frame that a policy observes, and the number of frames in its observation.

    Attributes:
        frame_shape: (H, W, C) of a frame.
        frame_stack: D, >= 1.
        view: (top, bottom, left, right) of the part; None is the whole frame.
        origin: row and column of the frame's first pixel in the coordinates of `view`, for frames that are a crop of
            a larger frame.
        name: of the argument `view`, for error messages.
        action_planes: planes behind the frames that hold the last action, see `common.action_planes`.

    Raises:
        UserError: a view that is not inside the frame, or a frame stack below 1.
    """

    frame_shape: tuple[int, int, int]
    frame_stack: int = 1
    view: Rectangle | None = None
    origin: tuple[int, int] = (0, 0)
    name: str = "view"
    action_planes: int = 0

    def __post_init__(self) -> None:
        if self.frame_stack < 1:
            raise UserError(f"frame_stack={self.frame_stack}: wanted at least 1.")
        if self.view is None:
            return
        (height, width, _), (first_row, first_column) = self.frame_shape, self.origin
        top, bottom, left, right = self.view
        inside = first_row <= top < bottom <= first_row + height
        if not (inside and first_column <= left < right <= first_column + width):
            raise UserError(
                f"{self.name}={self.view} is not inside the frame, which has rows {first_row} to {first_row + height} "
                f"and columns {first_column} to {first_column + width} (top, bottom, left, right)."
            )

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of the view, for an array (..., H, W, C) as `array[(..., *slices, slice(None))]`."""
        if self.view is None:
            return slice(0, self.frame_shape[0]), slice(0, self.frame_shape[1])
        (first_row, first_column), (top, bottom, left, right) = self.origin, self.view
        return slice(top - first_row, bottom - first_row), slice(left - first_column, right - first_column)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(h, w, C*D + action_planes) of an observation. Channels are last."""
        rows, columns = self.slices
        channels = self.frame_shape[2] * self.frame_stack + self.action_planes
        return rows.stop - rows.start, columns.stop - columns.start, channels

    def crop(self, frames: np.ndarray) -> np.ndarray:
        """The view of frames, (..., H, W, C) -> (..., h, w, C); not a copy."""
        return frames[(..., *self.slices, slice(None))]


class FrameStack:
    """The last `depth` frames of one or many rows, side by side in the channels, oldest first.

    At the start of an episode its first frame is repeated, unless the frames before it are given. No later call changes
    a returned array; do not write to it.

    Example:
        A batch in which some rows restart:

        >>> stack = FrameStack(4)
        >>> observations = stack.reset(frames)  # (N, h, w, C) -> (N, h, w, C*4)
        >>> observations = stack.push(frames, active)  # active (N,) bool: other rows stay unchanged
        >>> observations = stack.reset(frames[rows], rows)  # rows (n,) int64 start a new episode

    Args:
        depth: number of frames, >= 1.
    """

    def __init__(self, depth: int) -> None:
        if depth < 1:
            raise UserError(f"frame stack depth={depth}: wanted at least 1.")
        self.depth = depth
        self._stacked: np.ndarray | None = None

    def reset(
        self, frames: np.ndarray, rows: np.ndarray | None = None, before: Sequence[np.ndarray] = ()
    ) -> np.ndarray:
        """Start an episode, in all rows or in some.

        Args:
            frames: first frames, (H, W, C) or (N, H, W, C); with `rows` (n, H, W, C).
            rows: (n,) int64 indices of the rows that start; None starts all.
            before: the frames before the first ones, oldest first, each shaped as `frames`. The last depth-1 of them
                are used; if there are fewer, the oldest is repeated.

        Returns:
            (H, W, C*depth) or (N, H, W, C*depth), all rows.
        """
        newest = [*before, frames][-self.depth :]
        started = np.concatenate([newest[0]] * (self.depth - len(newest)) + newest, axis=-1)
        if rows is None:
            self._stacked = started
        else:
            stacked = self._current().copy()
            stacked[rows] = started
            self._stacked = stacked
        return self._stacked

    def push(self, frames: np.ndarray, active: np.ndarray | None = None) -> np.ndarray:
        """Append the next frame.

        Args:
            frames: (H, W, C) or (N, H, W, C).
            active: (N,) bool, the rows that get their frame; None is all rows.

        Returns:
            (H, W, C*depth) or (N, H, W, C*depth), all rows.
        """
        stacked = self._current()
        pushed = np.concatenate([stacked[..., frames.shape[-1] :], frames], axis=-1)
        if active is not None:
            pushed = np.where(active[:, None, None, None], pushed, stacked)
        self._stacked = pushed
        return pushed

    def _current(self) -> np.ndarray:
        if self._stacked is None:
            raise UserError("FrameStack: call reset() before push() or a reset of some rows.")
        return self._stacked
