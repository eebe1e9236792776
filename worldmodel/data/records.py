"""The bytes of a part file, and reading them: a header, then one record an episode.

docs/dataset.md describes them. A part never holds half an episode that anyone would read: a record counts
only if it is whole and its CRCs are right.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from worldmodel.common.errors import UserError
from worldmodel.data.episode import Episode
from worldmodel.data.header import Header

PART_MAGIC = b"\x89WMPART\n"
PART_VERSION = 1
FILE_HEAD = struct.Struct("<8sII")  # magic, version, bytes of the header's JSON
RECORD_MAGIC = b"\x89WMEPIS\n"
RECORD_HEAD = struct.Struct("<8sIQII")  # magic, bytes of meta, bytes of arrays, CRC of meta, CRC of arrays
CRC = struct.Struct("<I")
RECORD_BYTES = RECORD_HEAD.size + CRC.size


@dataclass(frozen=True)
class Record:
    """Where an episode lies in a part file, and what is known of it without reading its arrays.

    Attributes:
        number: its place in the file, from 0.
        offset: the byte where its record begins.
        meta: {"index", "seed", "policy", "length", "frame_shape", "action_dtype", "action_shape",
            "variables"}.
        array_offset: the byte where its arrays begin.
        array_bytes: how many bytes they have.
        crc: CRC-32 over them, the episode's CRC.
    """

    number: int
    offset: int
    meta: dict[str, Any]
    array_offset: int
    array_bytes: int
    crc: int

    @property
    def end(self) -> int:
        """The byte after the record."""
        return self.array_offset + self.array_bytes


@dataclass(frozen=True)
class Torn:
    """The end of a part file that is no whole record: what a killed recorder leaves.

    Attributes:
        number: the record that it would have been.
        offset: the byte where it begins.
        num_bytes: bytes from there to the end of the file.
    """

    number: int
    offset: int
    num_bytes: int


def encode_header(header: Header) -> bytes:
    """The first bytes of a part file."""
    text = header.text().encode("ascii")
    head = FILE_HEAD.pack(PART_MAGIC, PART_VERSION, len(text)) + text
    return head + CRC.pack(zlib.crc32(head))


def read_part_header(path: str | Path) -> Header:
    """What a part file says of its run.

    Raises:
        UserError: the file is missing, no part file, of a newer version, or its header is damaged.
    """
    path = Path(path)
    with _open(path) as file:
        return _read_header(file, path)[0]


def scan_part(path: str | Path, check: bool = True) -> Iterator[Record | Torn]:
    """Go through the records of a part file, one at a time, holding no arrays.

    Args:
        path: the part file.
        check: compute every record's array CRC; without, only the small parts are checked.

    Yields:
        A `Record` for each whole episode in file order; last a `Torn` if the file ends in half of one.

    Raises:
        UserError: a record is damaged that others follow; the sentence names file and record.
    """
    path = Path(path)
    with _open(path) as file:
        _, offset = _read_header(file, path)
        size = os.fstat(file.fileno()).st_size
        number = 0
        while offset < size:
            record = _read_record(file, path, number, offset, size, check)
            yield record
            if isinstance(record, Torn):
                return
            offset, number = record.end, number + 1


def read_part(path: str | Path) -> Iterator[Episode]:
    """The episodes of a part file in file order, one at a time in memory, each checked by its CRC.

    Stops before a torn end.

    Raises:
        UserError: the file or a record is damaged; the sentence names file and record.
    """
    for record in scan_part(path, check=False):
        if isinstance(record, Record):
            yield read_record(path, record)
        else:
            return


def read_record(path: str | Path, record: Record) -> Episode:
    """Read one episode that `scan_part` has found, with fresh arrays.

    Raises:
        UserError: its CRC is wrong or it is no valid episode; the sentence names file and record.
    """
    path = Path(path)
    data = np.empty(record.array_bytes, np.uint8)
    with _open(path) as file:
        file.seek(record.array_offset)
        got = file.readinto(data.data)  # type: ignore[attr-defined]
    where = f"record {record.number} (index {record.meta['index']}) of '{path}'"
    crc = zlib.crc32(data.data)
    if got != record.array_bytes or crc != record.crc:
        raise UserError(f"{where}: the CRC of its arrays is {crc:08x}, stored is {record.crc:08x}. {_REMEDY}")
    arrays: dict[str, np.ndarray] = {}
    begin = 0
    for name, dtype, shape in array_plan(record.meta):
        end = begin + dtype.itemsize * int(np.prod(shape))
        piece = data[begin:end] if dtype.itemsize == 1 else data[begin:end].copy()  # copied: aligned
        arrays[name] = piece.view(dtype).reshape(shape)
        begin = end
    return build_episode(arrays, record.meta, where)


_REMEDY = "The file is damaged: delete it and record its episodes again, which gives the same ones."


def build_episode(arrays: dict[str, np.ndarray], meta: dict[str, Any], where: str) -> Episode:
    """An `Episode` from arrays by their names on disk; `where` begins the error's sentence."""
    variables = {n.removeprefix("variables/"): a for n, a in arrays.items() if n.startswith("variables/")}
    flat = {n: a for n, a in arrays.items() if not n.startswith("variables/")}
    try:
        return Episode(**flat, variables=variables, index=meta["index"], seed=meta["seed"], policy=meta["policy"])
    except UserError as error:
        raise UserError(f"{where} is no valid episode: {error}") from error


def array_plan(meta: dict[str, Any]) -> Iterator[tuple[str, np.dtype, tuple[int, ...]]]:
    """Name, dtype and shape of each array of a record, in their order."""
    length = int(meta["length"])
    yield "frames", np.dtype("u1"), (length + 1, *meta["frame_shape"])
    yield "frame_valid", np.dtype("?"), (length + 1,)
    for name in sorted(meta["variables"]):
        yield f"variables/{name}", np.dtype("<f4"), (length + 1,)
    yield "actions", np.dtype(meta["action_dtype"]), (length, *meta["action_shape"])
    yield "rewards", np.dtype("<f4"), (length,)
    yield "terminations", np.dtype("?"), (length,)
    yield "truncations", np.dtype("?"), (length,)


def episode_meta(episode: Episode) -> dict[str, Any]:
    """The meta of an episode's record."""
    return {
        "index": episode.index,
        "seed": episode.seed,
        "policy": episode.policy,
        "length": episode.length,
        "frame_shape": list(episode.frames.shape[1:]),
        "action_dtype": "<i8" if episode.actions.dtype.kind == "i" else "<f4",
        "action_shape": list(episode.actions.shape[1:]),
        "variables": sorted(episode.variables),
    }


def _open(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise UserError(f"cannot open '{path}': {error.strerror}.") from error


def _read_header(file: BinaryIO, path: Path) -> tuple[Header, int]:
    """The header at the beginning of the file, and the byte after it."""
    first = file.read(FILE_HEAD.size)
    if not first.startswith(PART_MAGIC):
        if PART_MAGIC.startswith(first):
            raise UserError(f"'{path}' ends inside its header ({len(first)} bytes). Delete it and record again.")
        raise UserError(f"'{path}' is not a part file: it does not begin with the part file's mark.")
    if len(first) < FILE_HEAD.size:
        raise UserError(f"'{path}' ends inside its header ({len(first)} bytes). Delete it and record again.")
    _, version, num_bytes = FILE_HEAD.unpack(first)
    if version != PART_VERSION:
        raise UserError(
            f"'{path}' is a part file of version {version}; this code reads version {PART_VERSION}. "
            "Update worldmodel, or seal it with the version that wrote it."
        )
    size = os.fstat(file.fileno()).st_size
    end = FILE_HEAD.size + num_bytes + CRC.size
    if end > size:
        raise UserError(f"'{path}' ends inside its header ({size} bytes). Delete it and record again.")
    text = file.read(num_bytes)
    (crc,) = CRC.unpack(file.read(CRC.size))
    if zlib.crc32(first + text) != crc:
        raise UserError(f"'{path}': the CRC of its header is wrong. {_REMEDY}")
    return Header.from_json(json.loads(text)), end


def _read_record(file: BinaryIO, path: Path, number: int, offset: int, size: int, check: bool) -> Record | Torn:
    """Read the record at `offset`; `Torn` if it is broken and nothing whole follows."""
    file.seek(offset)
    torn = Torn(number, offset, size - offset)
    where = f"record {number} of '{path}' (at byte {offset})"
    head = file.read(RECORD_BYTES)
    if len(head) < RECORD_BYTES:
        return torn
    magic, meta_bytes, array_bytes, meta_crc, array_crc = RECORD_HEAD.unpack_from(head)
    if magic != RECORD_MAGIC or CRC.unpack_from(head, RECORD_HEAD.size)[0] != zlib.crc32(head[:-4]):
        if _later_record(file, offset + 1, size):
            raise UserError(f"{where}: its head is damaged. {_REMEDY}")
        return torn
    array_offset = offset + RECORD_BYTES + meta_bytes
    end = array_offset + array_bytes
    if end > size:
        if _later_record(file, offset + 1, size):  # a whole record cannot follow one that does not end
            raise UserError(f"{where}: bytes are missing from it. {_REMEDY}")
        return torn
    text = file.read(meta_bytes)
    if zlib.crc32(text) != meta_crc:
        if end < size:
            raise UserError(f"{where}: the CRC of its meta is wrong. {_REMEDY}")
        return torn
    meta = json.loads(text)
    if check:
        crc = _crc_of(file, array_bytes)
        if crc != array_crc:
            if end == size:
                return torn
            raise UserError(
                f"record {number} (index {meta['index']}) of '{path}': the CRC of its arrays is {crc:08x}, "
                f"stored is {array_crc:08x}. {_REMEDY}"
            )
    return Record(number, offset, meta, array_offset, array_bytes, array_crc)


def _crc_of(file: BinaryIO, num_bytes: int) -> int:
    """CRC-32 of the next bytes, a megabyte at a time."""
    crc = 0
    while num_bytes:
        block = file.read(min(num_bytes, 1 << 20))
        if not block:
            break
        crc = zlib.crc32(block, crc)
        num_bytes -= len(block)
    return crc


def _later_record(file: BinaryIO, offset: int, size: int) -> bool:
    """Whether a sound record head lies anywhere at or after `offset`."""
    block_bytes = 1 << 20
    while offset < size:
        file.seek(offset)
        block = file.read(block_bytes + RECORD_BYTES)
        at = block.find(RECORD_MAGIC)
        while at >= 0:
            head = block[at : at + RECORD_BYTES]
            whole = len(head) == RECORD_BYTES
            if whole and CRC.unpack_from(head, RECORD_HEAD.size)[0] == zlib.crc32(head[:-4]):
                return True
            at = block.find(RECORD_MAGIC, at + 1)
        offset += block_bytes
    return False
