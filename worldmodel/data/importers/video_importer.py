"""Import of a folder of video files, one per episode, without actions.

Shapes: T+1 frames of H x W pixels.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.common.text import human_bytes
from worldmodel.data.episode import Episode
from worldmodel.data.importers.frame_conversion import fit_frame
from worldmodel.data.importers.imported_dataset import (
    SPLIT_NAMES,
    VIDEO_SUFFIXES,
    ImportedDataset,
    ImportOptions,
    imported_episode,
    imported_header,
    official_splits,
    source_files,
)

MAX_BYTES = 600 * 2**20  # of the frames of one episode, which is in memory as a whole


@dataclass(frozen=True)
class VideoFolder:
    """The videos of a folder.

    Attributes:
        paths: N videos.
        labels: N classes, indices of `class_names`; None for no class.
        splits: N official splits; all None if the source has none.
        class_names: the names of the classes.
        size: (H, W) of the first frame.
    """

    paths: list[Path]
    labels: list[int | None]
    splits: list[str | None]
    class_names: list[str]
    size: tuple[int, int]


def open_videos(source: Path, options: ImportOptions) -> ImportedDataset:
    """Check a folder of videos, SOURCE/[SPLIT/][CLASS/]NAME.mp4, in the order of their paths.

    If every video is below a folder called train, validation, valid, val or test, those are the official splits; lists
    of videos (`split_files`) give them too. A folder below names the class of its videos. Every video is one episode
    without actions, rewards and ends.

    Args:
        source: the folder.
        options: options of the import.

    Raises:
        UserError: no videos, folders that are nested too deep, or a video that cannot be read.
    """
    videos = find_videos(source, options)
    header = imported_header("video", options, videos.size, spaces.NoAction(), videos.class_names, videos.splits)

    def episodes() -> Iterator[Episode]:
        for index, path in enumerate(videos.paths):
            frames = read_clip(path, videos.size, options, options.fit or "crop")
            yield imported_episode(frames, index, f"'{path}'", label=videos.labels[index], split=videos.splits[index])
            del frames  # before those of the next episode are read

    return ImportedDataset(header, episodes)


def find_videos(source: Path, options: ImportOptions) -> VideoFolder:
    """The videos of a folder with their classes and splits; the first one is opened.

    Raises:
        UserError: no videos, folders that are nested too deep, or a list that does not fit the folder.
    """
    paths = source_files(source, VIDEO_SUFFIXES, "videos")
    splits: list[str | None] = [None] * len(paths)
    if options.split_files:
        listed = read_split_files(source, options.split_files)
        unknown = sorted(listed.keys() - set(paths))
        if unknown:
            raise UserError(
                f"'{unknown[0]}' is in a list of videos and is none of the videos below '{source}'; wanted files that "
                f"end in {', '.join(VIDEO_SUFFIXES)} and are not hidden."
            )
        paths = [path for path in paths if path in listed]
        splits = [listed[path] for path in paths]
    folders = [list(path.relative_to(source).parts[:-1]) for path in paths]
    outside = [path for path, folder in zip(paths, folders, strict=True) if not _is_split(folder)]
    if not outside:
        named = [SPLIT_NAMES[folder.pop(0).lower()] for folder in folders]
        splits = splits if options.split_files else [*named]
    elif len(outside) < len(paths) and not (options.ignore_splits or options.split_files):
        raise UserError(
            f"'{outside[0]}' is in no folder called {', '.join(SPLIT_NAMES)}, and other videos are; wanted all or "
            "none. Move it, or give --ignore-splits or --split-files."
        )
    for path, folder in zip(paths, folders, strict=True):
        if len(folder) > 1:
            raise UserError(f"'{path}' is nested too deep; wanted SOURCE/[SPLIT/][CLASS/]NAME{path.suffix}.")
    names = sorted({folder[0] for folder in folders if folder})
    labels = [names.index(folder[0]) if folder else None for folder in folders]
    first = next(read_frames(paths[0]), None)
    if first is None:
        raise UserError(f"'{paths[0]}' has no frames; wanted at least two.")
    return VideoFolder(paths, labels, official_splits(splits, options), names, first.shape[:2])


def _is_split(folder: list[str]) -> bool:
    """Whether the first of some folders has the name of a split."""
    return bool(folder) and folder[0].lower() in SPLIT_NAMES


def read_split_files(source: Path, lists: tuple[Path, ...]) -> dict[Path, str]:
    """The videos of lists such as trainlist01.txt and testlist01.txt of UCF-101, with the split of each.

    A line is the path of a video, relative to the source or absolute, and may end in a space and the number of its
    class. A list whose name begins with train, val or test is for that split.

    Raises:
        UserError: a list cannot be read or its name begins otherwise; a video is missing, or in two splits.
    """
    found: dict[Path, str] = {}
    for path in lists:
        start = re.match("train|val|test", path.name.lower())
        if start is None:
            raise UserError(f"'{path}': the name of a list must begin with train, val or test; rename it.")
        split = SPLIT_NAMES[start[0]]
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"'{path}' cannot be read as a list of videos: {error}.") from error
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            video = Path(os.path.normpath(source / re.sub(r"\s+\d+$", "", line.strip())))
            if not video.is_file():
                raise UserError(
                    f"'{path}', line {number}: '{video}' does not exist; wanted the path of a video below it."
                )
            if found.setdefault(video, split) != split:
                raise UserError(
                    f"'{path}', line {number}: '{video}' is in the {found[video]} list too; wanted one split."
                )
    if not found:
        raise UserError(f"'{lists[0]}' lists no videos; wanted a path in each line.")
    return found


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


def read_clip(path: Path, size: tuple[int, int], options: ImportOptions, fit: str) -> np.ndarray:
    """(T+1, H, W, 3) uint8: every n-th of at most `num_frames` frames of a video, resized.

    Args:
        path: the video.
        size: (H, W) of its frames, if the options give none.
        options: `size`, `frame_skip`, `num_frames`.
        fit: "crop" or "stretch".

    Raises:
        UserError: a damaged video, one of another size, or one that is too short or too long.
    """
    size = options.size or size
    data, count = bytearray(), 0
    for number, frame in enumerate(read_frames(path)):
        if number % options.frame_skip:
            continue
        if options.size is None and frame.shape[:2] != size:
            raise UserError(
                f"'{path}' has frames of {frame.shape}, the first video has {(*size, 3)}; give a size to resize all "
                "(--size ROWS COLUMNS)."
            )
        data += fit_frame(frame, size, "stretch" if fit == "stretch" else "crop").tobytes()
        count += 1
        if count == options.num_frames:
            break
        if len(data) > MAX_BYTES:
            raise UserError(
                f"'{path}' has more than {human_bytes(MAX_BYTES)} of frames, and an episode must fit in memory; give a "
                "smaller --size, a --frame-skip or --num-frames."
            )
    if count < 2:
        raise UserError(f"'{path}' gives {count} frames at frame_skip={options.frame_skip}; wanted at least two.")
    return np.frombuffer(data, np.uint8).reshape(count, *size, 3)
