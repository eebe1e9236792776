"""Import of a folder of video files, one per episode, without actions.

Shapes: T+1 frames of H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec
from worldmodel.data.episode import Episode
from worldmodel.data.importers.frame_conversion import fit_frame
from worldmodel.data.importers.imported_dataset import (
    POLICY,
    SPLIT_NAMES,
    VIDEO_SUFFIXES,
    ImportedDataset,
    ImportOptions,
    imported_header,
    official_splits,
    source_files,
)


def open_videos(source: Path, options: ImportOptions) -> ImportedDataset:
    """Check a folder of videos, SOURCE/[SPLIT/][CLASS/]NAME.mp4, in the order of their paths.

    If every video is below a folder called train, validation, valid, val or test, those are the official splits. A
    folder below names the class of its videos. Every video is one episode without actions, rewards and ends.

    Args:
        source: the folder.
        options: options of the import.

    Raises:
        UserError: no videos, folders that are nested too deep, or a video that cannot be read.
    """
    paths = source_files(source, VIDEO_SUFFIXES, "videos")
    folders = [list(path.relative_to(source).parts[:-1]) for path in paths]
    splits: list[str | None] = [None] * len(paths)
    if all(folder and folder[0].lower() in SPLIT_NAMES for folder in folders):
        splits = official_splits([SPLIT_NAMES[folder.pop(0).lower()] for folder in folders], options)
    for path, folder in zip(paths, folders, strict=True):
        if len(folder) > 1:
            raise UserError(f"'{path}' is nested too deep; wanted SOURCE/[SPLIT/][CLASS/]NAME{path.suffix}.")
    names = sorted({folder[0] for folder in folders if folder})
    labels = [names.index(folder[0]) if folder else None for folder in folders]
    first = next(read_frames(paths[0]), None)
    if first is None:
        raise UserError(f"'{paths[0]}' has no frames; wanted at least two.")
    rows, columns, _ = first.shape
    header = imported_header("video", options, (rows, columns), spaces.NoAction(), names, splits)

    def episodes() -> Iterator[Episode]:
        for index, path in enumerate(paths):
            frames = _read_clip(path, header.pixels, options)
            yield _episode(frames, index, labels[index], splits[index])

    return ImportedDataset(header, episodes)


def read_frames(path: Path) -> Iterator[np.ndarray]:
    """The frames of a video, (rows, columns, 3) uint8 each.

    Raises:
        UserError: the file cannot be read, or PyAV is missing.
    """
    import imageio.v3 as iio

    is_gif = path.suffix.lower() == ".gif"
    errors: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError, IndexError)
    if not is_gif:
        try:
            import av

            errors = (*errors, av.FFmpegError)
        except ImportError as error:
            raise UserError(f"'{path}': reading it needs PyAV: pip install 'worldmodel[video]'.") from error
    try:
        if is_gif:
            yield from iio.imiter(path, plugin="pillow", mode="RGB")
        else:
            yield from iio.imiter(path, plugin="pyav", format="rgb24")
    except errors as error:
        raise UserError(f"'{path}' cannot be read as a video: {error}.") from error


def _read_clip(path: Path, pixels: PixelSpec, options: ImportOptions) -> np.ndarray:
    """(T+1, H, W, 3) uint8: every n-th frame of a video."""
    frames = []
    for number, frame in enumerate(read_frames(path)):
        if number % options.frame_skip:
            continue
        if options.size is None and frame.shape != pixels.frame_shape:
            raise UserError(
                f"'{path}' has frames of {frame.shape}, the first video has {pixels.frame_shape}; give a size to "
                "resize all (--size ROWS COLUMNS)."
            )
        frames.append(frame if options.size is None else fit_frame(frame, options.size, options.fit or "crop"))
    if len(frames) < 2:
        raise UserError(f"'{path}' gives {len(frames)} frames at frame_skip={options.frame_skip}; wanted at least two.")
    return np.stack(frames)


def _episode(frames: np.ndarray, index: int, label: int | None, split: str | None) -> Episode:
    length = len(frames) - 1
    return Episode(
        frames=frames,
        frame_valid=np.ones(length + 1, bool),
        actions=np.zeros((length, 0), np.int64),
        rewards=np.zeros(length, np.float32),
        terminations=np.zeros(length, bool),
        truncations=np.zeros(length, bool),
        index=index,
        seed=index,
        policy=POLICY,
        label=label,
        split=split,
    )
