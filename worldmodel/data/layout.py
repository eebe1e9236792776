"""The layout of sealed files: user block, metadata (header and table of episodes), arrays. See docs/file_format.md.

Shapes: N episodes, F frames and S steps of all episodes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np

from worldmodel.common.errors import UserError
from worldmodel.data.episode import byte_view
from worldmodel.data.header import Header

FORMAT_VERSION = 2
DATASET, MERGED = "dataset", "merged"
USER_BLOCK_BYTES = 512
_USER_BLOCK = re.compile(rb"worldmodel (dataset|merged) (\d+)\nbytes (\d{20})\ncrc32 ([0-9a-f]{8})\n")

# The table of episodes: arrays of N numbers, in the order in which the CRC of the table covers them.
TABLE: dict[str, np.dtype] = {
    "index": np.dtype("<i8"),
    "seed": np.dtype("<i8"),
    "policy": np.dtype("<i4"),
    "split": np.dtype("u1"),
    "length": np.dtype("<i8"),
    "frame_offset": np.dtype("<i8"),
    "step_offset": np.dtype("<i8"),
    "crc": np.dtype("<u4"),
    "label": np.dtype("<i8"),
}
ADDED_TO_TABLE = {2: ("label",)}  # arrays by the format version that added them
Table = dict[str, np.ndarray]
NO_LABEL = -1  # in the table, for an episode without a label

# HDF5 metadata with checksums; arrays of a megabyte or more are aligned to 512 bytes.
HDF5_OPTIONS = {
    "libver": ("v110", "v110"),
    "userblock_size": USER_BLOCK_BYTES,
    "alignment_threshold": 1 << 20,
    "alignment_interval": USER_BLOCK_BYTES,
}

_DAMAGED = "The file is damaged: copy it again, or record it again."


def array_layout(header: Header) -> Iterator[tuple[str, np.dtype, tuple[int, ...], bool]]:
    """The arrays of a file: name, dtype, shape of one entry, and whether entries are per frame (else per step)."""
    yield "frames", np.dtype("u1"), header.pixels.frame_shape, True
    yield "frame_valid", np.dtype("?"), (), True
    for name in sorted(header.variables):
        yield f"variables/{name}", np.dtype("<f4"), (), True
    yield "actions", header.action_space.dtype.newbyteorder("<"), header.action_space.shape, False
    yield "rewards", np.dtype("<f4"), (), False
    yield "terminations", np.dtype("?"), (), False
    yield "truncations", np.dtype("?"), (), False


def encode_user_block(kind: str, num_bytes: int, crc: int, version: int = FORMAT_VERSION) -> bytes:
    """The 512 bytes of text before the HDF5 content: kind, format version, size and CRC of the file."""
    where = "told in docs/dataset.md" if version == 1 else "specified in docs/file_format.md"
    text = (
        f"worldmodel {kind} {version}\nbytes {num_bytes:020d}\ncrc32 {crc:08x}\n"
        f"An HDF5 file begins at byte {USER_BLOCK_BYTES}. The size is that of the whole file; the CRC-32 "
        f"is that of all bytes after this block.\nThe layout is {where} of worldmodel.\n"
    )
    return text.encode("ascii").ljust(USER_BLOCK_BYTES - 1) + b"\n"


def body_crc(path: Path) -> int:
    """CRC-32 of everything after the user block, read in pieces of a megabyte."""
    crc = 0
    with open(path, "rb") as file:
        file.seek(USER_BLOCK_BYTES)
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc


def write_user_block(path: Path, kind: str) -> None:
    """Write the user block of a file that is otherwise complete."""
    block = encode_user_block(kind, path.stat().st_size, body_crc(path))
    with open(path, "r+b") as file:
        file.write(block)


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading.

    Raises:
        UserError: the file is missing or cannot be opened.
    """
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise UserError(f"there is no file '{path}'. Check the path, or record the dataset first.") from None
    except OSError as error:
        raise UserError(f"cannot open '{path}': {error.strerror}.") from error


def read_user_block(file: BinaryIO, path: Path) -> tuple[str, int]:
    """Read and check the user block of an open file.

    Returns:
        The kind (`DATASET` or `MERGED`) and the stored CRC of the rest of the file.

    Raises:
        UserError: another format, another version, or a size that differs from the stored one.
    """
    file.seek(0)
    block = file.read(USER_BLOCK_BYTES)
    size = os.fstat(file.fileno()).st_size
    if not block:
        raise UserError(f"'{path}' is empty. {_DAMAGED}")
    if block.startswith(b"\x89WMPART\n"):
        raise UserError(f"'{path}' is a part file, not a sealed dataset. Seal it with `worldmodel data seal {path}`.")
    match = _USER_BLOCK.match(block)
    if match is None:
        if block.startswith(b"worldmodel "):
            raise UserError(f"'{path}': its user block (the first 512 bytes) is damaged or incomplete. {_DAMAGED}")
        other = " but an HDF5 file of another program" if block.startswith(b"\x89HDF\r\n") else ""
        raise UserError(f"'{path}' is not a worldmodel dataset{other}: it does not begin with 'worldmodel dataset'.")
    kind, version, num_bytes, crc = match[1].decode(), int(match[2]), int(match[3]), int(match[4], 16)
    if not 1 <= version <= FORMAT_VERSION:
        raise UserError(
            f"'{path}' has format version {version}; this code reads versions 1 to {FORMAT_VERSION}. Update worldmodel."
        )
    if num_bytes != size:
        raise UserError(f"'{path}' has {size} bytes; it was written with {num_bytes}. {_DAMAGED}")
    if block != encode_user_block(kind, num_bytes, crc, version):
        raise UserError(f"'{path}': its user block (the first 512 bytes) is damaged. {_DAMAGED}")
    return kind, crc


def write_metadata(file: h5py.File, kind: str, header: Header, table: Table) -> None:
    """Write the attributes (with the header) and the table of episodes."""
    text = header.text().encode("ascii")
    file.attrs["format"] = np.bytes_(f"worldmodel {kind}".encode("ascii"))
    file.attrs["version"] = np.int64(FORMAT_VERSION)
    file.attrs["header"] = np.bytes_(text)
    file.attrs["header_crc"] = np.uint32(zlib.crc32(text))
    file.attrs["table_crc"] = np.uint32(table_crc(table))
    for name, dtype in TABLE.items():
        file.create_dataset(f"episodes/{name}", data=table[name].astype(dtype), track_times=False)


def table_columns(version: int) -> dict[str, np.dtype]:
    """The arrays of the table of episodes in a format version, in the order of its CRC."""
    added = {name for since, names in ADDED_TO_TABLE.items() if since > version for name in names}
    return {name: dtype for name, dtype in TABLE.items() if name not in added}


def table_crc(table: Table, version: int = FORMAT_VERSION) -> int:
    """CRC-32 over the arrays of the table, in the order of `TABLE`."""
    crc = 0
    for name, dtype in table_columns(version).items():
        crc = zlib.crc32(byte_view(table[name].astype(dtype)), crc)
    return crc


@dataclass(frozen=True)
class Metadata:
    """The header and the table of episodes of a file.

    Attributes:
        header: the header.
        table: the table of episodes; `label` is -1 in files of version 1.
        fingerprint: SHA-256, hexadecimal, of both as they are stored; the table has the CRC of each episode.
    """

    header: Header
    table: Table
    fingerprint: str


def read_metadata(file: h5py.File, path: Path, kind: str) -> Metadata:
    """Read what `write_metadata` wrote and check its CRCs.

    Raises:
        UserError: a CRC is wrong, or another kind or version.
    """
    wanted, version = f"worldmodel {kind}".encode(), int(file.attrs["version"])
    if bytes(file.attrs["format"]) != wanted or not 1 <= version <= FORMAT_VERSION:
        raise UserError(f"'{path}': its attribute 'format' is not {wanted.decode()!r}. {_DAMAGED}")
    text = bytes(file.attrs["header"])
    if zlib.crc32(text) != int(file.attrs["header_crc"]):
        raise UserError(f"'{path}': the CRC of its header is wrong. {_DAMAGED}")
    table = {name: np.asarray(file[f"episodes/{name}"][:]) for name in table_columns(version)}
    if table_crc(table, version) != int(file.attrs["table_crc"]):
        raise UserError(f"'{path}': the CRC of its table of episodes is wrong. {_DAMAGED}")
    digest = hashlib.sha256(text)
    for name, dtype in table_columns(version).items():
        digest.update(byte_view(table[name].astype(dtype)))
    table.setdefault("label", np.full(len(table["length"]), NO_LABEL))
    return Metadata(Header.from_json(json.loads(text)), table, digest.hexdigest())


@contextlib.contextmanager
def open_hdf5(handle: BinaryIO, path: Path) -> Iterator[h5py.File]:
    """Open an open file as HDF5 for reading; HDF5 errors become a `UserError` that names the file."""
    try:
        with h5py.File(handle, "r") as file:
            yield file
    except UserError:
        raise
    except (OSError, KeyError, RuntimeError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read as HDF5 ({error}). {_DAMAGED}") from error
