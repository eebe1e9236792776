"""TFRecord files and the tf.train.Example messages in them, read without TensorFlow.

A record is: length (uint64), masked CRC-32C of the length, `length` bytes, masked CRC-32C of the bytes; all numbers
little-endian. Source: tensorflow/core/lib/io/record_writer.h. An Example is the protobuf message of
tensorflow/core/example/example.proto; a SequenceExample has its context at the same field.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from worldmodel.common.errors import UserError
from worldmodel.data.importers.crc32c import crc32c

MASK_DELTA = 0xA282EAD8
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types of protobuf
BYTES_LIST, FLOAT_LIST, INT64_LIST = 1, 2, 3  # fields of tf.train.Feature


def masked_crc32c(data: bytes | memoryview) -> int:
    """The checksum as TFRecord files store it."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + MASK_DELTA) & 0xFFFFFFFF


def count_records(path: Path) -> int:
    """The number of records of a file, by their lengths; the CRC of each length is checked.

    Raises:
        UserError: the file is cut off, or no TFRecord file.
    """
    count = 0
    with open_records(path) as file:
        while (length := _read_length(file, path, count)) is not None:
            file.seek(length + 4, os.SEEK_CUR)
            count += 1
    return count


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a file, one after the other; the CRCs are checked.

    Raises:
        UserError: the file is damaged; the message names the record.
    """
    with open_records(path) as file:
        number = 0
        while (length := _read_length(file, path, number)) is not None:
            data, stored = file.read(length), struct.unpack("<I", file.read(4))[0]
            if masked_crc32c(data) != stored:
                raise UserError(f"'{path}': the data of record {number} is damaged (wrong CRC). Fetch the file again.")
            yield data
            number += 1


def open_records(path: Path) -> BinaryIO:
    """Open a file for reading.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error}.") from error


def _read_length(file: BinaryIO, path: Path, number: int) -> int | None:
    """The length of the next record, which is inside the file; None at the end."""
    start, size = file.tell(), os.fstat(file.fileno()).st_size
    if start == size:
        return None
    head = file.read(12)
    if len(head) == 12:
        length, stored = struct.unpack("<QI", head)
        if masked_crc32c(head[:8]) != stored:
            raise UserError(
                f"'{path}': the length of record {number} is damaged (wrong CRC), or this is no TFRecord file. Fetch "
                "the file again."
            )
        if start + 16 + length <= size:
            return int(length)
    raise UserError(f"'{path}' is cut off in record {number}, at byte {size}. Fetch the file again.")


class Example:
    """One tf.train.Example.

    Args:
        data: the message.
        where: the subject of error messages.

    Raises:
        UserError: the bytes are no such message.
    """

    def __init__(self, data: bytes, where: str) -> None:
        self._where = where
        self._features: dict[str, memoryview] = {}
        try:
            for _, features in _fields(memoryview(data), (1,)):
                for _, entry in _fields(features, (1,)):
                    key, feature = b"", memoryview(b"")
                    for number, value in _fields(entry, (1, 2)):
                        key, feature = (bytes(value), feature) if number == 1 else (key, value)
                    self._features[key.decode()] = feature
        except (IndexError, ValueError, TypeError, struct.error) as error:
            raise UserError(f"{where} is no tf.train.Example: {error}.") from error

    def __contains__(self, key: str) -> bool:
        return key in self._features

    def __iter__(self) -> Iterator[str]:
        """The names of the features, in the order of the message."""
        return iter(self._features)

    def bytes_of(self, key: str) -> memoryview:
        """The bytes of a feature with one value.

        Raises:
            UserError: the feature is missing, or has no or several values.
        """
        values = list(self._list(key, BYTES_LIST, "bytes"))
        if len(values) != 1:
            raise UserError(f"{self._where}: {key!r} has {len(values)} values; wanted one.")
        return values[0]

    def floats_of(self, key: str) -> np.ndarray:
        """(N,) float32 of a feature.

        Raises:
            UserError: the feature is missing, or no list of floats.
        """
        parts = [np.frombuffer(value, "<f4") for value in self._list(key, FLOAT_LIST, "floats")]
        return np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)

    def _list(self, key: str, kind: int, what: str) -> Iterator[memoryview]:
        """The values of a feature; packed numbers are one value."""
        if key not in self._features:
            raise UserError(f"{self._where} has no {key!r}.")
        try:
            kinds = [number for number, _ in _fields(self._features[key], (BYTES_LIST, FLOAT_LIST, INT64_LIST))]
            if any(number != kind for number in kinds):
                raise UserError(f"{self._where}: {key!r} has values of another kind; wanted {what}.")
            for _, values in _fields(self._features[key], (kind,)):
                yield from (value for _, value in _fields(values, (1,)))
        except (IndexError, ValueError, TypeError, struct.error) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{self._where}: {key!r} is damaged: {error}.") from error


def _fields(message: memoryview, wanted: tuple[int, ...]) -> Iterator[tuple[int, memoryview]]:
    """Number and bytes of the wanted fields of a protobuf message; other fields are skipped."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            start, (_, end) = position, _varint(message, position)
        elif wire in (FIXED64, FIXED32):
            start, end = position, position + (8 if wire == FIXED64 else 4)
        elif wire == BYTES:
            length, start = _varint(message, position)
            end = start + length
        else:
            raise ValueError(f"wire type {wire}")
        if end > len(message):
            raise ValueError("a field is cut off")
        if number in wanted:
            yield number, message[start:end]
        position = end


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number of base 128, and the position after it."""
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
