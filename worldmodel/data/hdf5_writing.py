"""Writing HDF5 files so that a full disk is an `OSError`.

HDF5 crashes the process when it must close a file that it cannot flush. Here it therefore writes only metadata, a few
kilobytes, after a check that the file can be written; the arrays are written without HDF5.

Shapes: N episodes, F frames and S steps of all episodes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np

from worldmodel.data.episode import Episode, byte_view
from worldmodel.data.header import Header
from worldmodel.data.layout import DATASET, HDF5_OPTIONS, Table, array_layout, write_metadata


def check_writable(path: Path, num_bytes: int, metadata_bytes: int) -> None:
    """Check that a file can be written, before HDF5 opens it.

    Args:
        path: an existing file; its content is lost.
        num_bytes: its final size, which is compared with the limit of file sizes (`ulimit -f`).
        metadata_bytes: bytes that are written as a test of the free space and the quota.

    Raises:
        OSError: the limit is too small, or the disk is full.
    """
    with open(path, "r+b") as file:
        file.truncate(num_bytes)
        file.write(bytes(metadata_bytes))
        file.flush()
        os.fsync(file.fileno())


def metadata_size(header: Header, num_episodes: int) -> int:
    """An upper bound in bytes of the HDF5 metadata of a sealed file, with the table of episodes."""
    return (1 << 16) + 64 * num_episodes + len(header.text())


class ArrayWriter:
    """Writes the arrays of episodes into a file in which HDF5 has reserved their space.

    Args:
        file: the unbuffered file.
        offsets: array name -> the byte where it begins; empty arrays are absent.
        table: the table of episodes.
    """

    def __init__(self, file: BinaryIO, offsets: dict[str, int], table: Table) -> None:
        self.file, self.offsets, self.table = file, offsets, table

    def write(self, number: int, episode: Episode, header: Header) -> None:
        """Write the arrays of the episode in row `number` of the table.

        Raises:
            OSError: the disk is full, or cannot be written.
        """
        arrays = dict(episode.arrays())
        for name, dtype, entry, per_frame in array_layout(header):
            if name not in self.offsets:  # an empty array: the actions of a file without actions
                continue
            first = int(self.table["frame_offset" if per_frame else "step_offset"][number])
            self.file.seek(self.offsets[name] + first * dtype.itemsize * int(np.prod(entry)))
            content = byte_view(arrays[name])
            while len(content):
                content = content[self.file.write(content) :]


@contextmanager
def create_dataset_file(path: Path, header: Header, table: Table) -> Iterator[ArrayWriter]:
    """Create a sealed file without its user block; the arrays are written in the block.

    Args:
        path: an existing file; its content is replaced.
        header: the header.
        table: the table of episodes.

    Raises:
        OSError: the file cannot be written.
    """
    num_frames, num_steps = int((table["length"] + 1).sum()), int(table["length"].sum())
    num_metadata = metadata_size(header, len(table["length"]))
    layout = list(array_layout(header))
    sizes = [
        dtype.itemsize * int(np.prod(entry)) * (num_frames if per_frame else num_steps)
        for _, dtype, entry, per_frame in layout
    ]
    check_writable(path, sum(sizes) + num_metadata, num_metadata)
    with h5py.File(path, "w", **HDF5_OPTIONS) as file:
        write_metadata(file, DATASET, header, table)
        arrays = {
            name: file.create_dataset(name, (num_frames if per_frame else num_steps, *entry), dtype, track_times=False)
            for name, dtype, entry, per_frame in layout
        }
        for array in arrays.values():
            array[:1] = 0  # reserves the space of the whole array
        offsets = {name: array.id.get_offset() for name, array in arrays.items() if array.size}
    with open(path, "r+b", buffering=0) as raw:
        yield ArrayWriter(raw, offsets, table)
