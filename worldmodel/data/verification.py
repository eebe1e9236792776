"""Complete verification of a file; the first fault is named."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldmodel.common.errors import UserError
from worldmodel.common.files import expand_path
from worldmodel.common.text import format_list
from worldmodel.data.dataset import Dataset
from worldmodel.data.header import Header
from worldmodel.data.layout import (
    MERGED,
    NO_LABEL,
    USER_BLOCK_BYTES,
    body_crc,
    open_file,
    read_user_block,
)
from worldmodel.data.records import PART_MAGIC, IncompleteRecord, read_part_header, read_record, scan_part
from worldmodel.data.sources import Source, join_metadata, open_source, open_sources, read_merged
from worldmodel.data.splits import GIVEN, SPLITS, split_counts, split_numbers


@dataclass(frozen=True)
class VerifyReport:
    """The content of a valid file.

    Attributes:
        path: path of the file.
        kind: "dataset", "merged" or "part".
        num_episodes, num_frames, num_steps: counts.
        num_bytes: bytes on the disk, including the sources of a merged file.
        splits: number of episodes of each split.
        missing: indices that the header plans but the file does not have; not an error, since the parts of a stopped
            recording may be sealed.
    """

    path: str
    kind: str
    num_episodes: int
    num_frames: int
    num_steps: int
    num_bytes: int
    splits: dict[str, int]
    missing: tuple[int, ...]

    def __str__(self) -> str:
        splits = ", ".join(f"{count} {name}" for name, count in self.splits.items())
        text = (
            f"'{self.path}' ({self.kind}) is valid: {self.num_episodes} episodes ({splits}), "
            f"{self.num_frames} frames, {self.num_bytes} bytes, every CRC, offset and split is correct."
        )
        if self.missing:
            text += f" {len(self.missing)} planned episodes are missing: {format_list(self.missing)}."
        return text


def verify(path: str | Path) -> VerifyReport:
    """Check every CRC, offset, length, split and header of a sealed file, a merged file or a part.

    Args:
        path: the file; the sources of a merged file are checked too.

    Returns:
        A report of its content.

    Raises:
        UserError: the file is damaged; the message names the first bad record.
    """
    path = expand_path(path)
    with open_file(path) as file:
        if file.read(len(PART_MAGIC)) == PART_MAGIC:
            return _verify_part(path)
        kind, crc = read_user_block(file, path)
    num_bytes = path.stat().st_size
    if kind == MERGED:
        header, table, _ = read_merged(path)
        sources = open_sources(path)
        joined, joined_table = join_metadata(sources)
        if joined != header or any(not np.array_equal(table[n], joined_table[n]) for n in table):
            raise UserError(f"'{path}' disagrees with its sources. Merge the files again.")
        num_bytes += sum(source.path.stat().st_size for source in sources)
    else:
        sources = [open_source(path)]
    for source in sources:
        _verify_source(source)
    if kind == MERGED and body_crc(path) != crc:
        raise UserError(f"'{path}': the CRC of its content is wrong. Merge the files again.")
    with Dataset(path) as data:
        missing = _missing([(source.header, source.table["index"]) for source in sources])
        return VerifyReport(
            str(path), kind, len(data), data.num_frames, data.num_steps, num_bytes, data.split_counts, missing
        )


def _missing(files: list[tuple[Header, np.ndarray]]) -> tuple[int, ...]:
    return tuple(sorted(i for header, indices in files for i in set(header.indices) - set(indices.tolist())))


def _verify_source(source: Source) -> None:
    """Check the table, then every episode, then the CRC of the whole file."""
    path, header, table = source.path, source.header, source.table
    problem = next(_table_problems(source), None)
    if problem:
        raise UserError(f"'{path}': {problem}")
    with Dataset(path) as data:
        for number in range(data.num_episodes):
            data.check_episodes([number])
            try:
                episode = data.episode(number)
            except UserError as error:
                where = f"'{path}': episode {number} (index {table['index'][number]})"
                raise UserError(f"{where} is not a valid episode: {error}") from error
            header.check(episode)
    if zlib.crc32(source.mapped[USER_BLOCK_BYTES:].data) != source.crc:
        raise UserError(
            f"'{path}': every episode is valid, but bytes between them have changed (the CRC of the file is wrong). "
            "Copy the file again."
        )


def _table_problems(source: Source) -> Iterator[str]:
    header, table = source.header, source.table
    length, index = table["length"], table["index"]
    offsets = {"frame_offset": length + 1, "step_offset": length}
    rows: list[tuple[str, np.ndarray]] = [
        ("has no steps", length < 1),
        ("does not come after the index before it", np.diff(index, prepend=-1) < 1),
        ("has a policy number that is not in the header", table["policy"] >= len(header.policies)),
        ("has a negative policy number", table["policy"] < 0),
        ("has a negative seed", table["seed"] < 0),
    ]
    for name, sizes in offsets.items():
        rows.append((f"has a wrong {name}", table[name] != np.cumsum(sizes) - sizes))
    splits = table["split"] if header.split_rule == GIVEN else split_numbers(header.seed, index)
    rows.append(("is in the wrong split", table["split"] != splits))
    rows.append(("has an unknown split", table["split"] >= len(SPLITS)))
    rows.append(("has a label that is not in the header", table["label"] >= len(header.class_names)))
    rows.append(("has a negative label", table["label"] < NO_LABEL))
    for problem, bad in rows:
        if bad.any():
            number = int(np.flatnonzero(bad)[0])
            wanted = f" (wanted {SPLITS[splits[number]]})" if "wrong split" in problem else ""
            yield f"episode {number} (index {index[number]}) {problem}{wanted}."


def _verify_part(path: Path) -> VerifyReport:
    header = read_part_header(path)
    lengths, indices, given = [], [], []
    for record in scan_part(path):
        if isinstance(record, IncompleteRecord):
            raise UserError(
                f"record {record.number} of '{path}' (at byte {record.offset}) is incomplete or damaged; the "
                f"{record.number} records before it are valid. Run the recording again: it removes the record and "
                "continues."
            )
        episode = read_record(path, record)
        header.check(episode)
        if episode.index in indices:
            raise UserError(f"record {record.number} of '{path}': episode {episode.index} is already in the file.")
        lengths.append(episode.length)
        indices.append(episode.index)
        given.append(SPLITS.index(episode.split or SPLITS[0]))
    numbers = np.asarray(given) if header.split_rule == GIVEN else split_numbers(header.seed, indices)
    steps, splits = sum(lengths), split_counts(numbers)
    missing = _missing([(header, np.asarray(indices, np.int64))])
    return VerifyReport(
        str(path), "part", len(lengths), steps + len(lengths), steps, path.stat().st_size, splits, missing
    )
