"""Reading part files: a header, then one record per episode. See docs/file_format.md.

Readers accept only complete records with correct CRCs, so that no part of an episode is ever read as a whole one.
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
from worldmodel.common.files import expand_path
from worldmodel.data.episode import Episode
from worldmodel.data.header import Header

PART_MAGIC = b"\x89WMPART\n"
PART_VERSION = 2
FILE_PREFIX = struct.Struct("<8sII")  # magic, version, size of the header in bytes
RECORD_MAGIC = b"\x89WMEPIS\n"
RECORD_PREFIX = struct.Struct("<8sIQII")  # magic, bytes of meta, bytes of arrays, CRC of meta, CRC of arrays
CRC = struct.Struct("<I")
RECORD_PREFIX_BYTES = RECORD_PREFIX.size + CRC.size


@dataclass(frozen=True)
class Record:
    """The position of an episode in a part file, and its description without its arrays.

    Attributes:
        number: the number of the record in the file, from 0.
        offset: the byte where the record begins.
        meta: {"index", "seed", "policy", "length", "frame_shape", "action_dtype", "action_shape",
            "variables"}, "label" and "split" if the episode has them.
        array_offset: the byte where the arrays begin.
        array_bytes: the size of the arrays in bytes.
        crc: CRC-32 of the arrays, which is the CRC of the episode.
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
class IncompleteRecord:
    """An incomplete record at the end of a part file, as a killed recorder leaves it.

    Attributes:
        number: the number that the record would have.
        offset: the byte where it begins.
        num_bytes: bytes from there to the end of the file.
    """

    number: int
    offset: int
    num_bytes: int


def encode_header(header: Header) -> bytes:
    """The first bytes of a part file."""
    text = header.text().encode("ascii")
    content = FILE_PREFIX.pack(PART_MAGIC, PART_VERSION, len(text)) + text
    return content + CRC.pack(zlib.crc32(content))


def header_end(path: Path) -> int:
    """The byte after the header of a part file, where its first record begins."""
    with _open(path) as file:
        return _read_header(file, path)[1]


def read_part_header(path: str | Path) -> Header:
    """Read the header of a part file.

    Raises:
        UserError: the file is missing, not a part file, of another version, or its header is damaged.
    """
    path = expand_path(path)
    with _open(path) as file:
        return _read_header(file, path)[0]


def scan_part(path: str | Path, check: bool = True) -> Iterator[Record | IncompleteRecord]:
    """Iterate over the records of a part file, without keeping arrays in memory.

    Args:
        path: the part file.
        check: also check the CRC of the arrays of each record.

    Yields:
        A `Record` for each complete record in file order; last an `IncompleteRecord` if the file ends inside one.

    Raises:
        UserError: a record other than the last is damaged; the message names file and record.
    """
    path = expand_path(path)
    with _open(path) as file:
        _, offset = _read_header(file, path)
        size = os.fstat(file.fileno()).st_size
        number = 0
        while offset < size:
            record = _read_record(file, path, number, offset, size, check)
            yield record
            if isinstance(record, IncompleteRecord):
                return
            offset, number = record.end, number + 1


def read_part(path: str | Path) -> Iterator[Episode]:
    """Iterate over the episodes of a part file in file order; the CRC of each is checked.

    Stops before an incomplete record.

    Raises:
        UserError: the file or a record is damaged; the message names file and record.
    """
    for record in scan_part(path, check=False):
        if isinstance(record, Record):
            yield read_record(path, record)
        else:
            return


def read_record(path: str | Path, record: Record) -> Episode:
    """Read the episode of a record, with new arrays.

    Raises:
        UserError: its CRC is wrong or it is not a valid episode; the message names file and record.
    """
    path = expand_path(path)
    data = np.empty(record.array_bytes, np.uint8)
    with _open(path) as file:
        file.seek(record.array_offset)
        num_read = file.readinto(data.data)  # type: ignore[attr-defined]
    where = f"record {record.number} (index {record.meta['index']}) of '{path}'"
    crc = zlib.crc32(data.data)
    if num_read != record.array_bytes or crc != record.crc:
        raise UserError(f"{where}: the CRC of its arrays is {crc:08x}, stored is {record.crc:08x}. {_REMEDY}")
    arrays: dict[str, np.ndarray] = {}
    begin = 0
    for name, dtype, shape in record_arrays(record.meta):
        end = begin + dtype.itemsize * int(np.prod(shape))
        piece = data[begin:end] if dtype.itemsize == 1 else data[begin:end].copy()  # copied: aligned
        arrays[name] = piece.view(dtype).reshape(shape)
        begin = end
    return build_episode(arrays, record.meta, where)


_REMEDY = "The file is damaged: delete it and run the recording again, which gives the same episodes."


def build_episode(arrays: dict[str, np.ndarray], meta: dict[str, Any], where: str) -> Episode:
    """An `Episode` from arrays by their names in files; `where` is the subject of the error message."""
    variables = {n.removeprefix("variables/"): a for n, a in arrays.items() if n.startswith("variables/")}
    flat = {n: a for n, a in arrays.items() if not n.startswith("variables/")}
    try:
        return Episode(
            **flat,
            variables=variables,
            index=meta["index"],
            seed=meta["seed"],
            policy=meta["policy"],
            label=meta.get("label"),
            split=meta.get("split"),
        )
    except UserError as error:
        raise UserError(f"{where} is not a valid episode: {error}") from error


def record_arrays(meta: dict[str, Any]) -> Iterator[tuple[str, np.dtype, tuple[int, ...]]]:
    """Name, dtype and shape of each array of a record, in the order of the file."""
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
    """The `meta` of the record of an episode."""
    optional = {"label": episode.label, "split": episode.split}
    return {
        "index": episode.index,
        "seed": episode.seed,
        "policy": episode.policy,
        "length": episode.length,
        "frame_shape": list(episode.frames.shape[1:]),
        "action_dtype": "<i8" if episode.actions.dtype.kind == "i" else "<f4",
        "action_shape": list(episode.actions.shape[1:]),
        "variables": sorted(episode.variables),
        **{name: value for name, value in optional.items() if value is not None},
    }


def _open(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise UserError(f"cannot open '{path}': {error.strerror}.") from error


def _read_header(file: BinaryIO, path: Path) -> tuple[Header, int]:
    """The header at the start of the file, and the offset after it."""
    prefix = file.read(FILE_PREFIX.size)
    if not prefix.startswith(PART_MAGIC):
        if PART_MAGIC.startswith(prefix):
            raise UserError(f"'{path}' ends inside its header ({len(prefix)} bytes). Delete it and record again.")
        raise UserError(f"'{path}' is not a part file: it does not begin with the magic bytes of one.")
    if len(prefix) < FILE_PREFIX.size:
        raise UserError(f"'{path}' ends inside its header ({len(prefix)} bytes). Delete it and record again.")
    _, version, num_bytes = FILE_PREFIX.unpack(prefix)
    if version not in (1, PART_VERSION):
        raise UserError(
            f"'{path}' is a part file of version {version}; this code reads versions 1 and {PART_VERSION}. "
            "Update worldmodel, or seal it with the version that wrote it."
        )
    size = os.fstat(file.fileno()).st_size
    end = FILE_PREFIX.size + num_bytes + CRC.size
    if end > size:
        raise UserError(f"'{path}' ends inside its header ({size} bytes). Delete it and record again.")
    text = file.read(num_bytes)
    (crc,) = CRC.unpack(file.read(CRC.size))
    if zlib.crc32(prefix + text) != crc:
        raise UserError(f"'{path}': the CRC of its header is wrong. {_REMEDY}")
    return Header.from_json(json.loads(text)), end


def _read_record(
    file: BinaryIO, path: Path, number: int, offset: int, size: int, check: bool
) -> Record | IncompleteRecord:
    """Read the record at `offset`; an `IncompleteRecord` if it is damaged and no complete record follows."""
    file.seek(offset)
    incomplete = IncompleteRecord(number, offset, size - offset)
    where = f"record {number} of '{path}' (at byte {offset})"
    prefix = file.read(RECORD_PREFIX_BYTES)
    if len(prefix) < RECORD_PREFIX_BYTES:
        return incomplete
    magic, meta_bytes, array_bytes, meta_crc, array_crc = RECORD_PREFIX.unpack_from(prefix)
    if magic != RECORD_MAGIC or CRC.unpack_from(prefix, RECORD_PREFIX.size)[0] != zlib.crc32(prefix[:-4]):
        if _has_later_record(file, offset + 1, size):
            raise UserError(f"{where}: its first {RECORD_PREFIX_BYTES} bytes are damaged. {_REMEDY}")
        return incomplete
    array_offset = offset + RECORD_PREFIX_BYTES + meta_bytes
    end = array_offset + array_bytes
    if end > size:
        if _has_later_record(file, offset + 1, size):  # bytes are missing in the middle of the file
            raise UserError(f"{where}: bytes are missing from it. {_REMEDY}")
        return incomplete
    text = file.read(meta_bytes)
    if zlib.crc32(text) != meta_crc:
        if end < size:
            raise UserError(f"{where}: the CRC of its meta is wrong. {_REMEDY}")
        return incomplete
    meta = json.loads(text)
    if check:
        crc = _crc_of(file, array_bytes)
        if crc != array_crc:
            if end == size:
                return incomplete
            raise UserError(
                f"record {number} (index {meta['index']}) of '{path}': the CRC of its arrays is {crc:08x}, "
                f"stored is {array_crc:08x}. {_REMEDY}"
            )
    return Record(number, offset, meta, array_offset, array_bytes, array_crc)


def _crc_of(file: BinaryIO, num_bytes: int) -> int:
    """CRC-32 of the next bytes, read in pieces of a megabyte."""
    crc = 0
    while num_bytes:
        block = file.read(min(num_bytes, 1 << 20))
        if not block:
            break
        crc = zlib.crc32(block, crc)
        num_bytes -= len(block)
    return crc


def _has_later_record(file: BinaryIO, offset: int, size: int) -> bool:
    """Whether a valid record prefix is found at or after `offset`."""
    block_bytes = 1 << 20
    while offset < size:
        file.seek(offset)
        block = file.read(block_bytes + RECORD_PREFIX_BYTES)
        position = block.find(RECORD_MAGIC)
        while position >= 0:
            prefix = block[position : position + RECORD_PREFIX_BYTES]
            complete = len(prefix) == RECORD_PREFIX_BYTES
            if complete and CRC.unpack_from(prefix, RECORD_PREFIX.size)[0] == zlib.crc32(prefix[:-4]):
                return True
            position = block.find(RECORD_MAGIC, position + 1)
        offset += block_bytes
    return False
