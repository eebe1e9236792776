"""Opening sealed files, and the sources of merged files.

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
from worldmodel.common.spaces import check_actions
from worldmodel.data.episode import byte_view
from worldmodel.data.header import Header
from worldmodel.data.header_union import combine
from worldmodel.data.layout import (
    DATASET,
    MERGED,
    TABLE,
    USER_BLOCK_BYTES,
    Table,
    array_layout,
    open_file,
    open_hdf5,
    read_metadata,
    read_user_block,
)


@dataclass
class Source:
    """One open sealed file: its metadata in memory, the rest memory-mapped.

    Attributes:
        path: path of the file.
        header: its header.
        table: its table of episodes, name -> (N,).
        locations: array name -> (offset in bytes, dtype, shape).
        fingerprint: hash of header and table.
        crc: the stored CRC of everything after the user block.
        mapped: the bytes of the whole file, read-only.
        cache: "memmap" or "ram", where `array` keeps the arrays.
    """

    path: Path
    header: Header
    table: Table
    locations: dict[str, tuple[int, np.dtype, tuple[int, ...]]]
    fingerprint: str
    crc: int
    mapped: np.ndarray
    cache: str = "memmap"
    _arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def array(self, name: str) -> np.ndarray:
        """One array with all frames or steps, read-only: mapped, or read into memory at its first use ("ram")."""
        if name not in self._arrays:
            offset, dtype, shape = self.locations[name]
            num_bytes = dtype.itemsize * math.prod(shape)
            array = self.mapped[offset : offset + num_bytes].view(dtype).reshape(shape)
            if self.cache == "ram":
                array = array.copy()
                array.flags.writeable = False
            self._arrays[name] = array
        return self._arrays[name]

    def episode_crc(self, number: int) -> int:
        """CRC-32 of the arrays of an episode as `array` returns them."""
        crc, length = 0, int(self.table["length"][number])
        for name, _, _, per_frame in array_layout(self.header):
            begin = int(self.table["frame_offset" if per_frame else "step_offset"][number])
            crc = zlib.crc32(byte_view(self.array(name)[begin : begin + length + per_frame]), crc)
        return crc

    def check_episode(self, number: int) -> None:
        """Check the CRC of an episode, and its actions against the action space.

        Args:
            number: the row of the episode in the table of this file.

        Raises:
            UserError: the episode is damaged; the message names file and episode.
        """
        crc, stored = self.episode_crc(number), int(self.table["crc"][number])
        if crc != stored:
            raise UserError(
                f"{self._describe(number)}: the CRC-32 of its arrays is {crc:08x}, stored is {stored:08x}. The file is "
                "damaged: copy it again, or record it again."
            )
        start, length = int(self.table["step_offset"][number]), int(self.table["length"][number])
        self._check_actions(number, self.array("actions")[start : start + length])

    def check_all_actions(self) -> None:
        """Check all actions of the file against the action space.

        Raises:
            UserError: an action is outside the space; the message names file and episode.
        """
        actions = self.array("actions")
        try:
            check_actions(self.header.action_space, actions)
        except UserError:
            for number, (start, length) in enumerate(
                zip(self.table["step_offset"].tolist(), self.table["length"].tolist(), strict=True)
            ):
                self._check_actions(number, actions[start : start + length])
            raise

    def _check_actions(self, number: int, actions: np.ndarray) -> None:
        try:
            check_actions(self.header.action_space, actions)
        except UserError as error:
            raise UserError(
                f"{self._describe(number)}: {error} The file is damaged: copy it again, or record it again."
            ) from error

    def _describe(self, number: int) -> str:
        return f"'{self.path}': episode {number} (index {self.table['index'][number]})"

    def close(self) -> None:
        """Drop the arrays; the mapping ends with the last view of it."""
        self._arrays.clear()
        self.mapped = self.mapped[:0].copy()


def open_source(path: Path, cache: str = "memmap") -> Source:
    """Open one sealed (not merged) file.

    Raises:
        UserError: the file is missing, damaged or of another format.
    """
    with open_file(path) as handle:
        kind, crc = read_user_block(handle, path)
        assert kind == DATASET, kind
        locations: dict[str, Any] = {}
        with open_hdf5(handle, path) as file:
            metadata = read_metadata(file, path, DATASET)
            header, table = metadata.header, metadata.table
            frames, steps = int((table["length"] + 1).sum()), int(table["length"].sum())
            for name, dtype, entry, per_frame in array_layout(header):
                dataset = file[name]
                shape = (frames if per_frame else steps, *entry)
                offset = dataset.id.get_offset() if dataset.size else USER_BLOCK_BYTES  # an empty array has no place
                if dataset.shape != shape or dataset.dtype != dtype or offset is None:
                    raise UserError(
                        f"'{path}': array {name!r} is {dataset.shape} {dataset.dtype}; "
                        f"wanted contiguous {shape} {dtype}."
                    )
                locations[name] = (offset, dtype, shape)
        # The mapping outlives the handle; np.ndarray indexes faster than np.memmap.
        mapped = np.memmap(handle, np.uint8, "r").view(np.ndarray)
    return Source(path, header, table, locations, metadata.fingerprint, crc, mapped, cache)


def join_metadata(sources: Sequence[Source]) -> tuple[Header, Table]:
    """Header and table of several files as of one: offsets and policy numbers refer to all files."""
    header, maps = combine([source.header for source in sources], [str(source.path) for source in sources])
    table = {name: np.concatenate([source.table[name] for source in sources]) for name in TABLE}
    table["frame_offset"] = np.cumsum(table["length"] + 1) - (table["length"] + 1)
    table["step_offset"] = np.cumsum(table["length"]) - table["length"]
    table["policy"] = np.concatenate(
        [numbers[source.table["policy"]] for numbers, source in zip(maps, sources, strict=True)]
    )
    return header, table


def read_merged(path: Path) -> tuple[Header, Table, list[tuple[Path, str]]]:
    """Header and table of a merged file, and the path and fingerprint of each source at the time of the merge.

    Raises:
        UserError: the merged file itself is damaged.
    """
    with open_file(path) as handle, open_hdf5(handle, path) as file:
        metadata = read_metadata(file, path, MERGED)
        text = bytes(file.attrs["sources"])
        if zlib.crc32(text) != int(file.attrs["sources_crc"]):
            raise UserError(f"'{path}': the CRC of its list of sources is wrong. Merge the files again.")
    entries = json.loads(text)
    return metadata.header, metadata.table, [(path.parent / entry["file"], entry["fingerprint"]) for entry in entries]


def open_sources(path: Path, cache: str = "memmap") -> list[Source]:
    """Open a sealed file, or all sources of a merged one.

    Raises:
        UserError: a file is missing, damaged or of another format, or a source has changed since the merge.
    """
    with open_file(path) as handle:
        kind, _ = read_user_block(handle, path)
    if kind == DATASET:
        return [open_source(path, cache)]
    sources = []
    for source_path, merged_fingerprint in read_merged(path)[2]:
        if not source_path.exists():
            raise UserError(
                f"'{source_path}', a source of the merged file '{path}', is missing. Put it back there, or merge the "
                "files again."
            )
        source = open_source(source_path, cache)
        if source.fingerprint != merged_fingerprint:
            raise UserError(f"'{source_path}' has changed since it was merged into '{path}'. Merge the files again.")
        sources.append(source)
    return sources


def check_no_duplicates(sources: Sequence[Source]) -> None:
    """Refuse files that share an episode: it could be in two splits and would count twice.

    Raises:
        UserError: the same environment, seed, index and CRC in two files; the message names files and episode.
    """
    paths: dict[tuple[str, int, int, int], Path] = {}
    for source in sources if len(sources) > 1 else ():
        for index, crc in zip(source.table["index"], source.table["crc"], strict=True):
            key = (source.header.env, source.header.seed, int(index), int(crc))
            if key in paths:
                raise UserError(
                    f"episode {int(index)} of seed {source.header.seed} is in '{paths[key]}' and again in "
                    f"'{source.path}'. Leave one of the files out."
                )
            paths[key] = source.path
