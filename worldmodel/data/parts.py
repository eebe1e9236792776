"""Writing part files: a recorder appends whole episodes, each of which survives a crash of the process."""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from worldmodel.common.errors import UserError
from worldmodel.common.files import expand_path, sync_folder, write_error
from worldmodel.common.locks import acquire_lock
from worldmodel.data.episode import Episode, byte_view
from worldmodel.data.header import Header, canonical_json
from worldmodel.data.records import (
    CRC,
    RECORD_MAGIC,
    RECORD_PREFIX,
    IncompleteRecord,
    encode_header,
    episode_meta,
    header_end,
    read_part,
    read_part_header,
    scan_part,
)

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = ["PartWriter", "lock_path", "read_part", "read_part_header", "scan_part"]


def lock_path(part: Path) -> Path:
    """The lock file of a part: its path with ".lock" appended, symbolic links resolved.

    Only writers create it. It stays until the part is deleted by `seal(remove_parts=True)`, or with its folder.
    """
    return Path(os.path.realpath(part) + ".lock")


class PartWriter:
    """Appends whole episodes to a part file; each is on the disk when `append` returns.

    Opening an existing part continues it: an incomplete record at its end is removed. The part is locked, so that
    two recorders never write to one part.

    Args:
        path: the part file; missing parent folders are created.
        header: the header of the run. A part of another run is refused.
        durable: whether each episode is flushed to the disk; not needed if an interrupted run begins anew.

    Raises:
        UserError: the part belongs to another run, is damaged, is being written by another process, or cannot be
            written.
    """

    def __init__(self, path: str | Path, header: Header, *, durable: bool = True) -> None:
        self.path = expand_path(path)
        self._durable = durable
        self.header = header
        self._indices: set[int] = set()
        self._file: BinaryIO | None = None
        self._lock: BaseFileLock | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            refusal = f"'{self.path}' is being written by another process. Wait for it to end, or end it."
            self._lock = acquire_lock(lock_path(self.path), refusal)
            is_new = not self.path.exists()
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
            self._file = os.fdopen(handle, "r+b", buffering=0)
            self._end = self._recover()
        except OSError as error:
            if self._file is not None and is_new:
                self.path.unlink(missing_ok=True)
            self.close()
            raise write_error(self.path, error) from error
        except BaseException:
            self.close()
            raise

    def _recover(self) -> int:
        """Check the existing content, remove an incomplete record, and return the offset for the next record."""
        assert self._file is not None
        start = encode_header(self.header)
        content = self._file.read(len(start))
        if len(content) < len(start) and start.startswith(content):  # a new part, or one with half a header
            self._write(0, [memoryview(start)])
            sync_folder(self.path.parent)
            return len(start)
        difference = read_part_header(self.path).difference(self.header)
        if difference:
            raise UserError(
                f"'{self.path}' belongs to another run: {difference} (first: the part, second: this run). "
                "Record to another path, or delete the part."
            )
        end = header_end(self.path)  # a part of version 1 has a shorter header
        for record in scan_part(self.path):
            if isinstance(record, IncompleteRecord):
                os.ftruncate(self._file.fileno(), record.offset)
                os.fsync(self._file.fileno())
            else:
                self._indices.add(int(record.meta["index"]))
                end = record.end
        return end

    @property
    def indices(self) -> frozenset[int]:
        """Indices of the episodes in the part."""
        return frozenset(self._indices)

    def append(self, episode: Episode) -> None:
        """Append one episode and flush it to the disk, if the writer is durable.

        If that fails (full disk, interrupt), the part is truncated to its previous content.

        Raises:
            UserError: the episode disagrees with the header, is already in the part, or cannot be written.
        """
        if self._file is None:
            raise UserError(f"'{self.path}' is closed; open a new PartWriter to continue.")
        self.header.check(episode)
        if episode.index in self._indices:
            raise UserError(f"'{self.path}' already has episode {episode.index}; each index can be written once.")
        meta = canonical_json(episode_meta(episode)).encode("ascii")
        prefix = RECORD_PREFIX.pack(RECORD_MAGIC, len(meta), episode.num_bytes, zlib.crc32(meta), episode.crc())
        description = prefix + CRC.pack(zlib.crc32(prefix)) + meta
        pieces = [memoryview(description), *(byte_view(array) for _, array in episode.arrays())]
        try:
            end = self._write(self._end, pieces)
        except BaseException as error:
            with contextlib.suppress(OSError):  # what stays is an incomplete record, which no reader accepts
                os.ftruncate(self._file.fileno(), self._end)
            if isinstance(error, OSError):
                raise UserError(
                    f"episode {episode.index} could not be written to '{self.path}': {error.strerror}. "
                    "The part is unchanged; free some space and run the same command again."
                ) from error
            raise
        self._end = end
        self._indices.add(episode.index)

    def _write(self, offset: int, pieces: list[memoryview]) -> int:
        """Write at `offset`, flush to the disk if durable, and return the offset after the last byte."""
        assert self._file is not None
        handle = self._file.fileno()
        os.lseek(handle, offset, os.SEEK_SET)
        for piece in pieces:
            offset += len(piece)
            while len(piece):
                piece = piece[os.write(handle, piece) :]
        if self._durable:
            os.fsync(handle)
        return offset

    def close(self) -> None:
        """Close the file and release the lock."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
