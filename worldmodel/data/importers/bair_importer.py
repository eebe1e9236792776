"""Import of BAIR robot pushing (Ebert et al. 2017, arXiv 1710.05268) from its TFRecords, without TensorFlow.

Shapes: T steps, T+1 frames of H x W pixels (30 of 64 x 64 in the published files), A numbers per action (4).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from worldmodel.common import spaces
from worldmodel.common.errors import UserError, unknown_name
from worldmodel.data.episode import Episode
from worldmodel.data.importers.frame_conversion import fit_frames
from worldmodel.data.importers.imported_dataset import (
    SPLIT_NAMES,
    ImportedDataset,
    ImportOptions,
    imported_episode,
    imported_header,
    official_splits,
    source_files,
)
from worldmodel.data.importers.tfrecord import Example, count_records, read_records

SUFFIXES = (".tfrecords", ".tfrecord")
CAMERA = "image_aux1"  # the camera of published results; the other one is image_main
POSITION = ("endeffector_x", "endeffector_y", "endeffector_z")


def open_bair(source: Path, options: ImportOptions) -> ImportedDataset:
    """Check a folder of TFRecord files; files in folders called train and test are those splits.

    Record keys, for frame t = 0, 1, ...: `t/CAMERA/encoded` (raw RGB of a square), `t/action` (A floats),
    `t/endeffector_pos` (three floats, which become variables). The action of the last frame leads to no frame and is
    left out. A tenth of the train episodes, by the rule "hash", is for validation.

    Args:
        source: the folder, for example softmotion30_44k or a folder above it.
        options: options of the import; `camera` is image_aux1 if not given.

    Raises:
        UserError: a file is damaged, or its records have other keys; the message names file and record.
    """
    paths = source_files(source, SUFFIXES, "TFRecord files")
    names = [SPLIT_NAMES.get(path.parent.name.lower()) for path in paths]
    if None in names and any(names):
        path = paths[names.index(None)]
        raise UserError(f"'{path}' is in no folder called train or test, but other files are; wanted all or none.")
    counts = [count_records(path) for path in paths]
    splits = official_splits([name for name, count in zip(names, counts, strict=True) for _ in range(count)], options)
    if not splits:
        raise UserError(f"'{source}' has TFRecord files without records; wanted at least one record.")
    camera = options.camera or CAMERA
    first = next(path for path, count in zip(paths, counts, strict=True) if count)
    where = f"'{first}', record 0"
    frames, actions, variables = _arrays(Example(next(read_records(first)), where), camera, where)
    bounds = (None,) * actions.shape[1]
    size = (frames.shape[1], frames.shape[2])
    header = imported_header("bair", options, size, spaces.Box(bounds, bounds), (), splits, tuple(variables))

    def episodes() -> Iterator[Episode]:
        records = ((f"'{path}', record {i}", data) for path in paths for i, data in enumerate(read_records(path)))
        for index, (where, data) in enumerate(records):
            frames, actions, variables = _arrays(Example(data, where), camera, where)
            found = (frames.shape[1:3], actions.shape[1], tuple(sorted(variables)))
            wanted = (size, len(bounds), header.variables)
            if found != wanted:
                what = "{} frames, {} numbers per action and the variables {}"
                raise UserError(
                    f"{where} has {what.format(*found)}; wanted {what.format(*wanted)} as in the first record."
                )
            frames = fit_frames(frames, header.pixels.size, options.fit or "stretch")
            split = splits[index]
            yield imported_episode(frames, index, where, actions=actions, variables=variables, split=split)

    return ImportedDataset(header, episodes)


def _arrays(example: Example, camera: str, where: str) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Frames (T+1, H, W, 3) uint8, actions (T, A) float32 and variables, (T+1,) float32 each."""
    num_frames = 0
    while f"{num_frames}/{camera}/encoded" in example:
        num_frames += 1
    if num_frames < 2:
        keys = [key.split("/") for key in example]
        cameras = {key[1] for key in keys if len(key) == 3 and key[2] == "encoded"}
        if cameras and camera not in cameras:
            raise UserError(f"{where}: {unknown_name('camera', camera, cameras)}")
        raise UserError(f"{where} has {num_frames} frames '0/{camera}/encoded', '1/...'; wanted at least two.")
    parts = [_frame(example.bytes_of(f"{t}/{camera}/encoded"), where) for t in range(num_frames)]
    sizes = sorted({part.shape[0] for part in parts})
    if len(sizes) > 1:
        raise UserError(f"{where} has frames of {sizes[0]} and {sizes[1]} rows; wanted frames of one size.")
    frames = np.stack(parts)
    actions = np.stack([_floats(example, f"{t}/action", where) for t in range(num_frames - 1)])
    variables: dict[str, np.ndarray] = {}
    if "0/endeffector_pos" in example:
        positions = np.stack([_floats(example, f"{t}/endeffector_pos", where, 3) for t in range(num_frames)])
        variables = {name: np.ascontiguousarray(positions[:, i]) for i, name in enumerate(POSITION)}
    return frames, actions, variables


def _frame(data: memoryview, where: str) -> np.ndarray:
    """(H, H, 3) uint8 from raw bytes."""
    side = math.isqrt(len(data) // 3)
    if not side or 3 * side * side != len(data):
        raise UserError(f"{where}: a frame has {len(data)} bytes; wanted raw RGB of a square, such as 64 x 64 x 3.")
    return np.frombuffer(data, np.uint8).reshape(side, side, 3)


def _floats(example: Example, key: str, where: str, count: int | None = None) -> np.ndarray:
    """(N,) float32 of one frame; `count` numbers if given, else as many as in the first frame."""
    values = example.floats_of(key)
    wanted = len(example.floats_of(f"0/{key.partition('/')[2]}")) if count is None else count
    if len(values) != wanted or not wanted:
        raise UserError(f"{where}: {key!r} has {len(values)} numbers; wanted {wanted or 'at least one'}.")
    return values
