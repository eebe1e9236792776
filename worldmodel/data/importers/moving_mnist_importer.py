"""Import of Moving MNIST (Srivastava et al. 2015, arXiv 1502.04681): generated from digits, or the public test set.

Shapes: T+1 frames of 64 x 64 pixels.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from worldmodel.common import spaces
from worldmodel.common.assets import find_asset
from worldmodel.common.errors import UserError
from worldmodel.data.episode import Episode
from worldmodel.data.importers.frame_conversion import fit_frames
from worldmodel.data.importers.imported_dataset import (
    ImportedDataset,
    ImportOptions,
    imported_episode,
    imported_header,
)
from worldmodel.data.splits import SPLITS, split_numbers

ASSET = "mnist-5k"
FRAME, DIGIT = 64, 28  # pixels
NUM_DIGITS = 2  # in a frame
STEP = 0.1  # of the free range, per frame
NUM_FRAMES, NUM_SEQUENCES = 20, 10_000  # as in the public test set
SEQUENCES_PER_MAPPING = 256  # of a .npy file
IDX_MAGIC = 0x00000803  # of MNIST's own files: unsigned bytes, three dimensions
WANTED = "wanted mnist_test_seq.npy, digits as CSV or in MNIST's idx format, or the word mnist-5k"


def open_moving_mnist(source: Path, options: ImportOptions) -> ImportedDataset:
    """Check a file of sequences, or of digits that sequences are generated from.

    A file that ends in .npy holds sequences as the public test set does, (frames, sequences, 64, 64) uint8; all are
    test episodes. Anything else holds digits: CSV with 784 numbers in 0 .. 255 in a row, optionally with a label
    before or after them, or MNIST's idx format, each plain or gzipped. The word mnist-5k stands for the asset of that
    name, 5,000 digits.

    Generated sequences have the splits of the rule "hash", and no digit is in sequences of two splits.

    Args:
        source: the file.
        options: options of the import; `num_sequences` and `num_frames` of generated ones.

    Raises:
        UserError: the file is missing, damaged or has another layout.
    """
    if source.as_posix() == ASSET and not source.exists():
        source = find_asset(ASSET)
    if not source.is_file():
        raise UserError(f"'{source}' {'is a folder' if source.is_dir() else 'does not exist'}; {WANTED}.")
    return _open_sequences(source, options) if source.suffix == ".npy" else _open_digits(source, options)


def _open_sequences(source: Path, options: ImportOptions) -> ImportedDataset:
    """The sequences of a .npy file."""
    if options.num_sequences is not None or options.num_frames is not None:
        raise UserError(f"'{source}' holds sequences, nothing is generated; leave out num_sequences and num_frames.")
    try:
        data = np.load(source, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"'{source}' cannot be read as .npy: {error}.") from error
    if data.ndim != 4 or data.dtype != np.uint8 or data.shape[0] < 2 or 0 in data.shape:
        found = f"{data.shape} {data.dtype}"
        raise UserError(f"'{source}' has shape {found}; wanted (frames, sequences, H, W) uint8, two frames or more.")
    splits = [None if options.ignore_splits else "test"] * data.shape[1]
    header = imported_header("moving-mnist", options, data.shape[2:], spaces.NoAction(), (), splits)

    def episodes() -> Iterator[Episode]:
        for start in range(0, len(splits), SEQUENCES_PER_MAPPING):
            # A new mapping: the pages that were read through the old one do not stay in memory.
            block = np.load(source, mmap_mode="r", allow_pickle=False)[:, start : start + SEQUENCES_PER_MAPPING]
            for index in range(start, start + block.shape[1]):
                frames = _rgb(np.asarray(block[:, index - start]), header.pixels.size, options)
                yield imported_episode(frames, index, f"'{source}', sequence {index}", split=splits[index])

    return ImportedDataset(header, episodes)


def _open_digits(source: Path, options: ImportOptions) -> ImportedDataset:
    """Sequences that are generated from the digits of a file."""
    digits = read_digits(source)
    num_frames, count = options.num_frames or NUM_FRAMES, options.num_sequences or NUM_SEQUENCES
    split_of_digit = split_numbers(options.seed, np.arange(len(digits)))
    split_of_sequence = split_numbers(options.seed, np.arange(count))
    for number in np.unique(split_of_sequence):
        if not (split_of_digit == number).any():
            raise UserError(
                f"'{source}' has {len(digits)} digits, none for the {SPLITS[number]} split; wanted 10 or more."
            )
    splits = [None if options.ignore_splits else SPLITS[number] for number in split_of_sequence]
    header = imported_header("moving-mnist", options, (FRAME, FRAME), spaces.NoAction(), (), splits)

    def episodes() -> Iterator[Episode]:
        for index, split in enumerate(splits):
            rng = np.random.default_rng((options.seed, index))
            choices = np.flatnonzero(split_of_digit == split_of_sequence[index])
            chosen = digits[rng.choice(choices, NUM_DIGITS)]
            frames = _rgb(moving_digits(chosen, num_frames, rng), header.pixels.size, options)
            yield imported_episode(frames, index, f"sequence {index}", split=split)

    return ImportedDataset(header, episodes)


def moving_digits(digits: np.ndarray, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Digits that move in straight lines and bounce off the edges; where they overlap, the brighter pixel is shown.

    Place and direction are uniform. A step is a tenth of the free range (36 pixels); a digit that passes an edge is
    put onto it, and that part of its velocity is reversed.

    Args:
        digits: (N, 28, 28) uint8.
        num_frames: T+1.
        rng: gives first places and directions.

    Returns:
        (T+1, 64, 64) uint8.
    """
    places = rng.random((len(digits), 2))  # row and column, 0 .. 1
    angles = rng.random(len(digits)) * 2 * np.pi
    velocities = np.stack([np.sin(angles), np.cos(angles)], axis=1) * STEP
    frames = np.zeros((num_frames, FRAME, FRAME), np.uint8)
    for frame in frames:
        places = places + velocities
        velocities = np.where((places <= 0) | (places >= 1), -velocities, velocities)
        places = np.clip(places, 0, 1)
        for digit, (row, column) in zip(digits, (places * (FRAME - DIGIT)).astype(int), strict=True):
            part = frame[row : row + DIGIT, column : column + DIGIT]
            np.maximum(part, digit, out=part)
    return frames


def read_digits(source: Path) -> np.ndarray:
    """(N, 28, 28) uint8 from a CSV or idx file, plain or gzipped.

    Raises:
        UserError: the file cannot be read or has another layout.
    """
    try:
        content = source.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        if content[:4] == IDX_MAGIC.to_bytes(4, "big"):
            shape = tuple(int(n) for n in np.frombuffer(content, ">u4", 3, 4))
            digits = np.frombuffer(content, np.uint8, offset=16).reshape(shape)
        else:
            rows = np.loadtxt(content.decode("ascii").splitlines(), delimiter=",", ndmin=2)
            if rows.shape[1] not in (DIGIT * DIGIT, DIGIT * DIGIT + 1):
                raise ValueError(f"{rows.shape[1]} numbers in a row")
            if rows.shape[1] > DIGIT * DIGIT:
                rows = _without_label(rows)
            if rows.min() < 0 or rows.max() > 255:
                raise ValueError(f"numbers in {rows.min():g} .. {rows.max():g}")
            digits = rows.astype(np.uint8).reshape(-1, DIGIT, DIGIT)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        layout = f"CSV with {DIGIT * DIGIT} numbers in 0 .. 255 in a row, optionally with a label before or after them"
        raise UserError(
            f"'{source}' cannot be read as digits: {error}; wanted {layout}, or MNIST's idx format."
        ) from error
    if digits.shape[1:] != (DIGIT, DIGIT) or not len(digits):
        raise UserError(f"'{source}' has digits of shape {digits.shape}; wanted (digits, {DIGIT}, {DIGIT}).")
    return digits


def _without_label(rows: np.ndarray) -> np.ndarray:
    """(N, 784) of rows with a label 0 .. 9 before or after the pixels; the pixel at the other end is 0 in all digits.

    Raises:
        ValueError: the label may be in both places, or in neither.
    """
    first, last = rows[:, 0], rows[:, -1]
    may_be = [bool(np.isin(column, np.arange(10)).all()) for column in (first, last)]
    if all(may_be):
        may_be = [bool(column.any()) for column in (first, last)]
    if may_be[0] == may_be[1]:
        raise ValueError("the label is not clearly the first or the last number of the rows, so remove it")
    return rows[:, 1:] if may_be[0] else rows[:, :-1]


def _rgb(frames: np.ndarray, size: tuple[int, int], options: ImportOptions) -> np.ndarray:
    """Grey frames (T+1, rows, columns) as (T+1, H, W, 3)."""
    return fit_frames(np.repeat(frames[..., None], 3, axis=3), size, options.fit or "crop")
