"""Import of a folder of .npz files, one per episode.

Shapes: T steps, T+1 frames of H x W pixels, A numbers per action.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldmodel.common.errors import UserError, unknown_name
from worldmodel.common.pixels import PixelSpec
from worldmodel.data.episode import Episode
from worldmodel.data.importers.action_inference import infer_space
from worldmodel.data.importers.frame_conversion import fit_frames
from worldmodel.data.importers.imported_dataset import (
    POLICY,
    ImportedDataset,
    ImportOptions,
    imported_header,
    parse_split,
    source_files,
)

KEYS = ("frames", "actions", "rewards", "terminations", "truncations", "label", "split")


class NpzFile:
    """One .npz file, open in a `with` block; its arrays are read and checked when they are accessed.

    Args:
        path: the file.

    Raises:
        UserError: not a .npz file, an unknown key, or no frames.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            arrays = np.load(path, allow_pickle=False)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(f"'{path}' cannot be read as .npz: {error}.") from error
        if isinstance(arrays, np.ndarray):
            raise UserError(f"'{path}' has a single array; wanted a .npz file with the key 'frames'.")
        self._arrays = arrays
        unknown = [key for key in arrays if key not in KEYS]
        if unknown or "frames" not in arrays:
            arrays.close()
            if unknown:
                raise UserError(f"'{path}': {unknown_name('key', unknown[0], KEYS)}")
            raise UserError(f"'{path}' has the keys {list(arrays)}; wanted 'frames', (T+1, H, W, 3) uint8.")

    def __enter__(self) -> NpzFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._arrays.close()

    def __contains__(self, key: str) -> bool:
        """Whether the file has an array."""
        return key in self._arrays

    def array(self, key: str) -> np.ndarray:
        """One array.

        Raises:
            UserError: the array is damaged, or of Python objects.
        """
        try:
            return np.asarray(self._arrays[key])
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(f"'{self.path}': {key} cannot be read: {error}.") from error

    def fail(self, key: str, array: np.ndarray, wanted: str) -> UserError:
        """An error that names file, key, what is there and what is wanted."""
        return UserError(f"'{self.path}': {key} has shape {array.shape} {array.dtype}; wanted {wanted}.")

    def frames(self) -> np.ndarray:
        """(T+1, H, W, 3) uint8."""
        frames = self.array("frames")
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or len(frames) < 2:
            raise self.fail("frames", frames, "(T+1, H, W, 3) uint8, at least two frames")
        return frames

    def actions(self) -> np.ndarray | None:
        """(T,) or (T, A) int64, or (T, A) float32; None without actions."""
        if "actions" not in self:
            return None
        actions = self.array("actions")
        kind = actions.dtype.kind
        if actions.ndim not in (1, 2) or kind not in "iubf" or (actions.ndim == 1 and kind == "f") or not actions.size:
            raise self.fail("actions", actions, "(T,) or (T, A) integers, or (T, A) floats")
        if kind != "f" and int(actions.min()) < 0:
            raise UserError(f"'{self.path}': actions have {int(actions.min())}; wanted integers counted from 0.")
        return actions.astype(np.float32 if kind == "f" else np.int64)

    def per_step(self, key: str, length: int, dtype: type) -> np.ndarray:
        """(length,) of rewards or ends; zeros if the file has none."""
        if key not in self:
            return np.zeros(length, dtype)
        array = self.array(key)
        kinds = "b" if dtype is bool else "fiub"
        if array.shape != (length,) or array.dtype.kind not in kinds:
            wanted = "bool" if dtype is bool else "numbers"
            raise self.fail(key, array, f"({length},) {wanted}, one for each step between {length + 1} frames")
        return array.astype(dtype)

    def label(self) -> int | str | None:
        """The class: its number or its name; None without a label."""
        if "label" not in self:
            return None
        label = self.array("label")
        if label.ndim or label.dtype.kind not in "iuU" or (label.dtype.kind != "U" and int(label) < 0):
            raise self.fail("label", label, "() of an integer >= 0 or a string")
        return str(label) if label.dtype.kind == "U" else int(label)

    def split(self) -> str | None:
        """The official split; None without one."""
        if "split" not in self:
            return None
        split = self.array("split")
        if split.ndim or split.dtype.kind != "U":
            raise self.fail("split", split, "() of a string")
        return parse_split(str(split), f"'{self.path}'")


@dataclass(frozen=True)
class _Scan:
    """What a file has besides frames: the largest action, () or (A,), and label and split; None for absent ones."""

    actions: np.ndarray | None
    label: int | str | None
    split: str | None


def _scan(path: Path) -> _Scan:
    with NpzFile(path) as file:
        actions = file.actions()
        largest = None if actions is None else np.asarray(actions.max(axis=0))
        return _Scan(largest, file.label(), file.split())


def open_npz(source: Path, options: ImportOptions) -> ImportedDataset:
    """Check a folder of .npz files, one per episode, in the order of their names.

    Keys: `frames` (T+1, H, W, 3) uint8; optional `actions` (T,) or (T, A), `rewards` (T,), `terminations` and
    `truncations` (T,) bool, `label` (an integer from 0, or a name), `split` ("train", "validation" or "test"). The
    action space is inferred: integers (T,) are Discrete, integers (T, A) MultiDiscrete, floats (T, A) an unbounded
    Box; without actions it is NoAction.

    Args:
        source: the folder.
        options: options of the import.

    Raises:
        UserError: a file is damaged or disagrees with the others; the message names file and key.
    """
    paths = source_files(source, (".npz",), "npz files")
    scans = [_scan(path) for path in paths]
    for key, values in (("actions", [scan.actions for scan in scans]), ("split", [scan.split for scan in scans])):
        lacking = [path for path, value in zip(paths, values, strict=True) if value is None]
        if lacking and len(lacking) < len(paths):
            raise UserError(f"'{lacking[0]}' has no {key}, which other files have; wanted {key} in all files or none.")
    names, numbers = _classes([scan.label for scan in scans], paths)
    splits = [None if options.ignore_splits else scan.split for scan in scans]
    with NpzFile(paths[0]) as first:
        rows, columns = first.frames().shape[1:3]
    space = infer_space([scan.actions for scan in scans], paths, source, options)
    header = imported_header("npz", options, (rows, columns), space, names, splits)

    def episodes() -> Iterator[Episode]:
        for index, path in enumerate(paths):
            with NpzFile(path) as file:
                yield _episode(file, index, header.pixels, options, numbers[index], splits[index])

    return ImportedDataset(header, episodes)


def _classes(labels: list[int | str | None], paths: list[Path]) -> tuple[list[str], list[int | None]]:
    """The names of the classes, and the class number of each episode."""
    names = sorted({label for label in labels if isinstance(label, str)})
    if not names:
        numbers = [label for label in labels if isinstance(label, int)]
        return [str(i) for i in range(max(numbers, default=-1) + 1)], [*labels]  # type: ignore[list-item]
    for label, path in zip(labels, paths, strict=True):
        if isinstance(label, int):
            raise UserError(f"'{path}': label is the number {label}, other files have names; wanted a name.")
    return names, [None if label is None else names.index(str(label)) for label in labels]


def _episode(
    file: NpzFile, index: int, pixels: PixelSpec, options: ImportOptions, label: int | None, split: str | None
) -> Episode:
    """The episode of one file."""
    frames = file.frames()
    if options.size is not None:
        frames = fit_frames(frames, options.size, options.fit or "stretch")
    elif frames.shape[1:] != pixels.frame_shape:
        wanted = f"frames of {pixels.frame_shape} as in the first file; give a size to resize all (--size)"
        raise file.fail("frames", frames, wanted)
    length = len(frames) - 1
    actions = file.actions()
    if actions is None:
        actions = np.zeros((length, 0), np.int64)
    elif len(actions) != length:
        raise file.fail("actions", actions, f"{length} actions between {length + 1} frames")
    try:
        return Episode(
            frames=frames,
            frame_valid=np.ones(length + 1, bool),
            actions=actions,
            rewards=file.per_step("rewards", length, np.float32),
            terminations=file.per_step("terminations", length, bool),
            truncations=file.per_step("truncations", length, bool),
            index=index,
            seed=index,
            policy=POLICY,
            label=label,
            split=split,
        )
    except UserError as error:
        raise UserError(f"'{file.path}': {error}") from error
