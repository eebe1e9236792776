"""The action space of imported actions, and sources that have as many actions as frames.

Shapes: T steps, T+1 frames, A numbers per action.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.data.importers.import_options import ImportOptions


def infer_space(
    largest: Sequence[np.ndarray | None], paths: Sequence[Path], source: Path, options: ImportOptions
) -> spaces.Space:
    """The smallest space that has the actions of all files.

    Integers (T,) are Discrete, integers (T, A) MultiDiscrete, floats (T, A) an unbounded Box.

    Args:
        largest: for each file the largest action of each dimension, () or (A,), int64 or float32; None without
            actions.
        paths: the files.
        source: the subject of error messages.
        options: `action_labels` gives the number of actions of a Discrete space.

    Raises:
        UserError: the files disagree, or the labels do not fit.
    """
    found = [value for value in largest if value is not None]
    space: spaces.Space = spaces.NoAction() if not found else _space_of(found, paths)
    if options.action_labels:
        count = len(options.action_labels)
        if not isinstance(space, spaces.Discrete) or space.n > count:
            raise UserError(f"{count} action_labels, but '{source}' has actions of {space}; wanted one for each.")
        return spaces.Discrete(count)
    return space


def _space_of(found: list[np.ndarray], paths: Sequence[Path]) -> spaces.Space:
    first = found[0]
    for actions, path in zip(found, paths, strict=True):
        if (actions.shape, actions.dtype) != (first.shape, first.dtype):
            raise UserError(
                f"'{path}': an action has shape {actions.shape} {actions.dtype}; wanted {first.shape} {first.dtype} as "
                f"in '{paths[0]}'."
            )
    if first.dtype.kind == "f":
        return spaces.Box((None,) * len(first), (None,) * len(first))
    largest = np.max(found, axis=0)
    return spaces.Discrete(int(largest) + 1) if not first.ndim else spaces.MultiDiscrete(tuple((largest + 1).tolist()))


LOST_END = (
    "--drop-action last: an episode ends in its last row, which is left out together with its reward, because the "
    "frame that it leads to is not in the source. The dataset does not show these ends."
)


def steps_of(array: np.ndarray, num_frames: int, drop: str | None, where: str) -> np.ndarray:
    """The T rows between T+1 frames, of an array with T or T+1 rows.

    Args:
        array: (T, ...) or (T+1, ...).
        num_frames: T+1.
        drop: `ImportOptions.drop_action`, for an array with T+1 rows.
        where: the subject of error messages.

    Warns:
        UserWarning: ends are left out with the last row.

    Raises:
        UserError: another number of rows, or T+1 rows without `drop`.
    """
    if len(array) == num_frames and drop is None:
        raise UserError(
            f"{where} has {len(array)} rows for {num_frames} frames, one too many. Give --drop-action last if row t "
            "follows frame t, or --drop-action first if row t led to frame t, as in episodes of Dreamer."
        )
    if len(array) == num_frames:
        if drop != "first" and array.dtype == bool and array[-1]:
            warnings.warn(LOST_END, stacklevel=2)
        return array[1:] if drop == "first" else array[:-1]
    if len(array) != num_frames - 1:
        shape = f"shape {array.shape} {array.dtype}"
        raise UserError(
            f"{where} has {shape}; wanted {num_frames - 1} rows, one for each step between {num_frames} frames."
        )
    return array
