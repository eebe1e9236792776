"""Import of the HDF5 layout of VideoGPT's public code (bair.hdf5): videos without actions in one file.

Shapes: T+1 frames of H x W pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.data.episode import Episode
from worldmodel.data.importers.frame_conversion import fit_frames
from worldmodel.data.importers.imported_dataset import (
    ImportedDataset,
    ImportOptions,
    imported_episode,
    imported_header,
    official_splits,
)

PARTS = ("train", "test")


def open_videogpt(source: Path, options: ImportOptions) -> ImportedDataset:
    """Check an HDF5 file with videos of two splits.

    Datasets: `train_data` and `test_data` (F, H, W, 3) uint8, the frames of all videos one after the other;
    `train_idx` and `test_idx` (N,) integers, the first frame of each video, ascending from 0. A video ends where the
    next one begins, and the last one at the end of the data. A tenth of the train videos, by the rule "hash", is for
    validation.

    Args:
        source: the file.
        options: options of the import.

    Raises:
        UserError: the file is damaged or has another layout; the message names the dataset.
    """
    spans = [span for part, bounds in _bounds(source).items() for span in _spans(part, bounds)]
    splits = official_splits([part for part, _, _ in spans], options)
    size = _frame_size(source)
    header = imported_header("videogpt-hdf5", options, size, spaces.NoAction(), (), splits)

    def episodes() -> Iterator[Episode]:
        with _open(source) as file:
            for index, (part, start, stop) in enumerate(spans):
                where = f"'{source}': {part}_data[{start}:{stop}]"
                try:
                    frames = np.asarray(file[f"{part}_data"][start:stop])
                except OSError as error:
                    raise UserError(f"{where} cannot be read: {error}.") from error
                frames = fit_frames(frames, header.pixels.size, options.fit or "crop")
                yield imported_episode(frames, index, where, split=splits[index])
                del frames  # before those of the next episode are read

    return ImportedDataset(header, episodes)


def _open(source: Path) -> h5py.File:
    if not source.is_file():
        wanted = "wanted an HDF5 file with the datasets train_data, train_idx, test_data and test_idx"
        raise UserError(
            f"'{source}' is a folder; {wanted}." if source.is_dir() else f"'{source}' does not exist; {wanted}."
        )
    try:
        return h5py.File(source, "r")
    except OSError as error:
        raise UserError(f"'{source}' cannot be read as HDF5: {error}.") from error


def _dataset(file: h5py.File, name: str, source: Path) -> h5py.Dataset:
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise UserError(f"'{source}' has {sorted(file)}; wanted the dataset {name!r} too.")
    return found


def _frame_size(source: Path) -> tuple[int, int]:
    """(H, W) of the frames."""
    with _open(source) as file:
        shapes = {part: _dataset(file, f"{part}_data", source).shape for part in PARTS}
    if shapes["train"][1:] != shapes["test"][1:]:
        raise UserError(
            f"'{source}': train_data has shape {shapes['train']}, test_data {shapes['test']}; wanted one size."
        )
    return shapes["train"][1], shapes["train"][2]


def _bounds(source: Path) -> dict[str, np.ndarray]:
    """For each split the first frame of each video and, last, the number of frames: (N + 1,) int64."""
    bounds = {}
    with _open(source) as file:
        for part in PARTS:
            data, starts = (_dataset(file, f"{part}_{name}", source) for name in ("data", "idx"))
            if data.ndim != 4 or data.shape[3] != 3 or data.dtype != np.uint8:
                found = f"{data.shape} {data.dtype}"
                raise UserError(f"'{source}': {part}_data has shape {found}; wanted (frames, H, W, 3) uint8.")
            if starts.ndim != 1 or starts.dtype.kind not in "iu":
                found = f"{starts.shape} {starts.dtype}"
                raise UserError(f"'{source}': {part}_idx has shape {found}; wanted (videos,) integers.")
            bounds[part] = np.append(starts[()].astype(np.int64), len(data))
            if bounds[part][0] != 0 or (np.diff(bounds[part]) < 2).any():
                i = int(np.argmax(np.diff(bounds[part]) < 2)) if bounds[part][0] == 0 else 0
                raise UserError(
                    f"'{source}': {part}_idx[{i}] is {bounds[part][i]}, and the next video begins at "
                    f"{bounds[part][min(i + 1, len(bounds[part]) - 1)]} of {len(data)} frames; wanted the first frame "
                    "of each video, ascending from 0, with two frames or more each."
                )
    return bounds


def _spans(part: str, bounds: np.ndarray) -> list[tuple[str, int, int]]:
    """Split, first frame and end of each video."""
    return [(part, int(start), int(stop)) for start, stop in itertools.pairwise(bounds)]
