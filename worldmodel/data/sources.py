"""Sealed files opened for reading: one, or the several that a merged file shows.

Shapes: N episodes.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.common.errors import UserError
from worldmodel.data.episode import byte_view
from worldmodel.data.header import Header, combine
from worldmodel.data.layout import (
    DATASET,
    MERGED,
    TABLE,
    Table,
    array_layout,
    check_first_block,
    fingerprint,
    open_file,
    open_hdf5,
    read_head,
)


@dataclass
class Source:
    """One sealed file: its head in memory, the rest mapped as it was when it was opened.

    Attributes:
        path: of the file.
        header: of the file.
        table: name -> (N,).
        places: array name -> (byte where it begins, dtype, shape).
        fingerprint: of header and table.
        crc: of everything after the first block, as that tells it.
        mapped: the whole file's bytes, read-only.
    """

    path: Path
    header: Header
    table: Table
    places: dict[str, tuple[int, np.dtype, tuple[int, ...]]]
    fingerprint: str
    crc: int
    mapped: np.ndarray
    _arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def array(self, name: str, cache: str = "memmap") -> np.ndarray:
        """All frames' or steps' values of one array: mapped, or read into memory once ("ram"); read-only."""
        if name not in self._arrays:
            offset, dtype, shape = self.places[name]
            num_bytes = dtype.itemsize * math.prod(shape)
            array = self.mapped[offset : offset + num_bytes].view(dtype).reshape(shape)
            if cache == "ram":
                array = array.copy()
                array.flags.writeable = False
            self._arrays[name] = array
        return self._arrays[name]

    def episode_crc(self, number: int) -> int:
        """CRC-32 of an episode's bytes as they are on the disk."""
        crc, length = 0, int(self.table["length"][number])
        for name, _, _, per_frame in array_layout(self.header):
            begin = int(self.table["frame_offset" if per_frame else "step_offset"][number])
            crc = zlib.crc32(byte_view(self.array(name)[begin : begin + length + per_frame]), crc)
        return crc

    def close(self) -> None:
        """Let the arrays go; maps end when nobody holds a view of them any more."""
        self._arrays.clear()
        self.mapped = self.mapped[:0].copy()


def open_source(path: Path) -> Source:
    """Open one sealed (not merged) file.

    Raises:
        UserError: anything that makes it no sound file of this format; the sentence says what.
    """
    with open_file(path) as handle:
        kind, crc = check_first_block(handle, path)
        assert kind == DATASET, kind
        places: dict[str, Any] = {}
        with open_hdf5(handle, path) as file:
            header, table = read_head(file, path, DATASET)
            frames, steps = int((table["length"] + 1).sum()), int(table["length"].sum())
            for name, dtype, entry, per_frame in array_layout(header):
                dataset = file[name]
                shape = (frames if per_frame else steps, *entry)
                offset = dataset.id.get_offset()
                if dataset.shape != shape or dataset.dtype != dtype or offset is None:
                    raise UserError(
                        f"'{path}': array {name!r} is {dataset.shape} {dataset.dtype}; "
                        f"wanted contiguous {shape} {dtype}."
                    )
                places[name] = (offset, dtype, shape)
        # The map outlives the handle; the plain class indexes faster than np.memmap.
        mapped = np.memmap(handle, np.uint8, "r").view(np.ndarray)
    return Source(path, header, table, places, fingerprint(header, table), crc, mapped)


def joined_head(sources: Sequence[Source]) -> tuple[Header, Table]:
    """Header and table of several files as one: offsets go on from file to file, policies are united."""
    header, maps = combine([source.header for source in sources], [str(source.path) for source in sources])
    table = {name: np.concatenate([source.table[name] for source in sources]) for name in TABLE}
    table["frame_offset"] = np.cumsum(table["length"] + 1) - (table["length"] + 1)
    table["step_offset"] = np.cumsum(table["length"]) - table["length"]
    table["policy"] = np.concatenate(
        [numbers[source.table["policy"]] for numbers, source in zip(maps, sources, strict=True)]
    )
    return header, table


def read_merged(path: Path) -> tuple[Header, Table, list[tuple[Path, str]]]:
    """The head of a merged file, and each source's path and the fingerprint it had.

    Raises:
        UserError: the merged file itself is damaged.
    """
    with open_file(path) as handle, open_hdf5(handle, path) as file:
        header, table = read_head(file, path, MERGED)
        text = bytes(file.attrs["sources"])
        if zlib.crc32(text) != int(file.attrs["sources_crc"]):
            raise UserError(f"'{path}': the CRC of its list of sources is wrong. Merge the files again.")
    told = json.loads(text)
    return header, table, [(path.parent / entry["file"], entry["fingerprint"]) for entry in told]


def open_sources(path: Path) -> list[Source]:
    """Open a sealed file, or all sources of a merged one.

    Raises:
        UserError: a file is missing, damaged or foreign, or a source has changed since it was merged.
    """
    with open_file(path) as handle:
        kind, _ = check_first_block(handle, path)
    if kind == DATASET:
        return [open_source(path)]
    sources = []
    for place, merged_fingerprint in read_merged(path)[2]:
        if not place.exists():
            raise UserError(
                f"'{path}' shows '{place}' among others, and that file is missing. Put it back there, or "
                "merge the files again."
            )
        source = open_source(place)
        if source.fingerprint != merged_fingerprint:
            raise UserError(f"'{place}' has changed since it was merged into '{path}'. Merge the files again.")
        sources.append(source)
    return sources


def refuse_twice(sources: Sequence[Source]) -> None:
    """Refuse files of which two hold the same episode: it could be in two splits and would count double.

    Raises:
        UserError: the same world, seed, index and CRC twice; the sentence names file and episode.
    """
    seen: dict[tuple[str, int, int, int], Path] = {}
    for source in sources if len(sources) > 1 else ():
        for index, crc in zip(source.table["index"], source.table["crc"], strict=True):
            key = (source.header.env, source.header.seed, int(index), int(crc))
            if key in seen:
                raise UserError(
                    f"episode {int(index)} of seed {source.header.seed} is in '{seen[key]}' and again in "
                    f"'{source.path}'. Leave one of the files out."
                )
            seen[key] = source.path
