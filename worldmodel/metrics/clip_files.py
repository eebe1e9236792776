"""Clips of files: arrays, folders of videos, datasets. Any two of them can be compared, without a world.

Shapes: N clips, L frames, H W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec, to_frame
from worldmodel.data import Dataset
from worldmodel.data.importers.imported_dataset import VIDEO_SUFFIXES
from worldmodel.data.importers.video_importer import read_frames
from worldmodel.metrics.clip_sources import recorded_clips

BATCH_SIZE = 16


class ClipFile(ABC):
    """A source of clips.

    Attributes:
        is_ordered: whether clip i of this source can belong to clip i of another one with as many clips; a dataset
            has windows of episodes instead, in a random order.
    """

    is_ordered: bool

    @abstractmethod
    def count(self, length: int) -> int:
        """How many clips of L frames there are.

        Raises:
            UserError: the clips of the source have fewer frames.
        """

    @abstractmethod
    def clips(self, length: int, num: int, seed: int = 0, skip: int = 0) -> Iterator[Tensor]:
        """Clips in a random order; sources with as many clips and `is_ordered` have the same order.

        Args:
            length: L.
            num: number of clips; fewer where the source has fewer.
            seed: of the order.
            skip: clips to leave out at the beginning of the order.

        Yields:
            (n, L, H, W, 3) uint8; an array of several samples of a clip yields (n, S, L, H, W, 3).
        """

    def close(self) -> None:  # noqa: B027 (most sources have nothing to close)
        """Close the file."""


def _order(count: int, num: int, seed: int, skip: int) -> list[np.ndarray]:
    """Indices of the chosen clips, batch by batch. If every clip is wanted, they stay in order."""
    if num >= count and not skip:
        chosen = np.arange(count)
    else:
        chosen = np.random.default_rng(seed).permutation(count)[skip : skip + num]
    return [chosen[i : i + BATCH_SIZE] for i in range(0, len(chosen), BATCH_SIZE)]


class ArrayClips(ClipFile):
    """Clips of a .npy file, which is mapped into memory.

    Args:
        path: the file: (N, T, H, W, C) uint8 with C = 1 or 3; or (N, S, T, H, W, C), S samples of each clip. The first
            L frames of a clip are used.

    Raises:
        UserError: the file cannot be read, or has another shape or dtype.
    """

    is_ordered = True

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"'{path}' cannot be read as .npy: {error}.") from error
        shape, dtype = self.array.shape, self.array.dtype
        if len(shape) not in (5, 6) or shape[-1] not in (1, 3) or dtype != np.uint8 or not all(shape):
            raise UserError(f"'{path}' has {shape} {dtype}; wanted clips (N, T, H, W, C) uint8 with C = 1 or 3.")

    def count(self, length: int) -> int:
        """As `ClipFile.count`."""
        if self.array.shape[-4] < length:
            raise UserError(f"'{self.path}' has clips of {self.array.shape[-4]} frames; wanted {length} (--length).")
        return len(self.array)

    def clips(self, length: int, num: int, seed: int = 0, skip: int = 0) -> Iterator[Tensor]:
        """As `ClipFile.clips`."""
        for indices in _order(self.count(length), num, seed, skip):
            clips = torch.from_numpy(self.array[indices][..., :length, :, :, :])
            yield clips if clips.shape[-1] == 3 else clips.expand(*clips.shape[:-1], 3)


class VideoClips(ClipFile):
    """The first frames of every video below a folder, in the order of their paths.

    Args:
        folder: the folder.
        size: (H, W) of the frames, by area averaging; None keeps the size of the videos, which must be equal.

    Raises:
        UserError: the folder has no videos.
    """

    is_ordered = True

    def __init__(self, folder: Path, size: tuple[int, int] | None = None) -> None:
        self.size = size
        self.paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
        if not self.paths:
            raise UserError(
                f"'{folder}' has no videos and is no model; wanted files that end in {', '.join(VIDEO_SUFFIXES)}, or "
                "the directory of a world or clip model."
            )

    def count(self, length: int) -> int:
        """As `ClipFile.count`; videos are read when their clip is."""
        return len(self.paths)

    def clips(self, length: int, num: int, seed: int = 0, skip: int = 0) -> Iterator[Tensor]:
        """As `ClipFile.clips`.

        Raises:
            UserError: a video that cannot be read, has fewer frames, or frames of another size.
        """
        size = self.size
        for indices in _order(self.count(length), num, seed, skip):
            clips = []
            for i in indices:
                clips.append(self._clip(self.paths[i], length, size))
                size = size or clips[-1].shape[1:3]
            yield torch.from_numpy(np.stack(clips))

    def _clip(self, path: Path, length: int, size: tuple[int, int] | None) -> np.ndarray:
        """(L, H, W, 3) uint8."""
        frames: list[np.ndarray] = []
        for frame in read_frames(path):
            if self.size is None and size is not None and frame.shape[:2] != size:
                raise UserError(f"'{path}' has frames of {frame.shape[:2]}, others {size}; give --size ROWS COLUMNS.")
            frames.append(frame if self.size is None else to_frame(frame, PixelSpec(self.size)))
            if len(frames) == length:
                return np.stack(frames)
        raise UserError(f"'{path}' has {len(frames)} frames; wanted {length} (--length).")


class DatasetClips(ClipFile):
    """Windows of the episodes of a split.

    Args:
        data: the dataset.
        split: "train", "validation" or "test".
    """

    is_ordered = False

    def __init__(self, data: Dataset, split: str) -> None:
        self.data, self.split = data, split

    def count(self, length: int) -> int:
        """As `ClipFile.count`; clips with an invalid frame are counted too."""
        return int(np.maximum(self.data.lengths[self.data.episodes_of(self.split)] + 2 - length, 0).sum())

    def clips(self, length: int, num: int, seed: int = 0, skip: int = 0) -> Iterator[Tensor]:
        """As `ClipFile.clips`.

        Raises:
            UserError: the split has no episode of so many frames.
        """
        for batch in recorded_clips(self.data, length, num, self.split, seed, BATCH_SIZE, skip):
            yield batch.frames

    def close(self) -> None:
        """As `ClipFile.close`."""
        self.data.close()


def open_clips(path: Path, split: str, size: tuple[int, int] | None = None) -> ClipFile:
    """The clips of a .npy file, a folder of videos, or a dataset.

    Args:
        path: the file or folder.
        split: of a dataset.
        size: of frames of videos.

    Raises:
        UserError: it is none of these, or cannot be read.
    """
    if path.is_dir():
        return VideoClips(path, size)
    return ArrayClips(path) if path.suffix == ".npy" else DatasetClips(Dataset(path), split)
