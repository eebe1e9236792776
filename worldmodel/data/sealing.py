"""Sealing: write the episodes of part files into one HDF5 file, atomically."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from worldmodel.common.errors import UserError
from worldmodel.common.files import atomic_path, check_free_space, expand_path
from worldmodel.common.text import format_list
from worldmodel.data.hdf5_writing import create_dataset_file, metadata_size
from worldmodel.data.header import Header
from worldmodel.data.layout import (
    DATASET,
    NO_LABEL,
    TABLE,
    Table,
    write_user_block,
)
from worldmodel.data.parts import lock_path
from worldmodel.data.records import IncompleteRecord, Record, read_part_header, read_record, scan_part
from worldmodel.data.splits import GIVEN, SPLITS, split_numbers

Entry = tuple[Path, Record]


def seal(
    parts: Iterable[str | Path],
    out: str | Path,
    *,
    header: Header | None = None,
    indices: Iterable[int] | None = None,
    remove_parts: bool = False,
) -> Path:
    """Write the episodes of part files into one HDF5 file, sorted by index.

    The bytes of the file depend on the header and the episodes only, not on the number of parts or their order. The
    file is written atomically and replaces an existing one. An episode that is in two parts with the same bytes is
    written once. One episode at a time is in memory.

    Args:
        parts: part files of one run.
        out: the file to write.
        header: the header of the file; parts may differ from it in shard and num_episodes. None takes the header
            of the parts, which must then be equal.
        indices: the exact set of episodes that the parts must have; None accepts any.
        remove_parts: delete the parts after the new file has been read back and verified.

    Returns:
        The path of the file.

    Raises:
        UserError: parts of different runs; episodes that are missing, unwanted, damaged or differ between two parts;
            too little space; or `out` cannot be written.
    """
    paths, out = [expand_path(part) for part in parts], expand_path(out)
    if not paths:
        raise UserError(f"there is nothing to seal into '{out}'; give the path of at least one part file.")
    if any(path.absolute() == out.absolute() for path in paths):
        raise UserError(f"'{out}' is one of the parts; choose another name for the sealed file.")
    header = _common_header(paths, header)
    entries = _collect(paths)
    _check_complete(entries, indices, out)
    ordered = [entries[index] for index in sorted(entries)]
    table = _table(header, ordered)
    num_bytes = sum(record.array_bytes for _, record in ordered) + metadata_size(header, len(ordered))
    check_free_space(out, num_bytes, f"sealing '{out}'")
    with atomic_path(out) as temporary:
        try:
            _write(temporary, header, table, ordered)
            write_user_block(temporary, DATASET)
        except OSError as error:
            raise UserError(
                f"'{out}' could not be written: {error.strerror or error}. The parts are unchanged; free some space "
                "and seal again."
            ) from error
    if remove_parts:
        from worldmodel.data.verification import verify

        verify(out)
        for path in paths:
            path.unlink()
            lock_path(path).unlink(missing_ok=True)
    return out


def _common_header(paths: list[Path], header: Header | None) -> Header:
    """The header of the sealed file, after comparing it with the header of each part."""
    first: tuple[Path, Header] | None = None
    for path in paths:
        part = read_part_header(path)
        if header is not None:
            names = tuple(n for n in header.to_json() if n not in ("shard", "num_episodes"))
            difference = header.difference(part, names)
            if difference:
                raise UserError(f"'{path}' belongs to another run than the given header: {difference}.")
        elif first is None:
            first = (path, part)
        else:
            difference = first[1].difference(part)
            if difference:
                raise UserError(
                    f"'{first[0]}' and '{path}' belong to different runs: {difference}. Seal each run into "
                    "its own file and merge the files, or pass the header of the sealed file."
                )
    if header is not None:
        return header
    assert first is not None
    return first[1]


def _collect(paths: list[Path]) -> dict[int, Entry]:
    """The record of every episode, by its index."""
    entries: dict[int, Entry] = {}
    for path in paths:
        for record in scan_part(path, check=False):
            if isinstance(record, IncompleteRecord):
                continue
            index = int(record.meta["index"])
            if index in entries:
                other_path, other = entries[index]
                if (other.crc, other.meta) != (record.crc, record.meta):
                    raise UserError(
                        f"episode {index} differs between '{other_path}' (CRC {other.crc:08x}) and '{path}' "
                        f"(CRC {record.crc:08x}). Delete the part that is not of this run."
                    )
                continue
            entries[index] = (path, record)
    return entries


def _check_complete(entries: dict[int, Entry], indices: Iterable[int] | None, out: Path) -> None:
    if indices is not None:
        wanted = set(indices)
        missing, unwanted = sorted(wanted - set(entries)), sorted(set(entries) - wanted)
        if missing:
            raise UserError(
                f"'{out}' is not complete: {len(missing)} of {len(wanted)} episodes are missing "
                f"({format_list(missing)}). Run the same recording again to record them."
            )
        if unwanted:
            raise UserError(f"the parts have episodes that were not requested for '{out}': {format_list(unwanted)}.")
    if not entries:
        raise UserError(f"there is nothing to seal into '{out}': the parts have no complete episode.")


def _table(header: Header, ordered: list[Entry]) -> Table:
    numbers = {name: number for number, name in enumerate(header.policy_names)}
    metas = [record.meta for _, record in ordered]
    for (path, record), meta in zip(ordered, metas, strict=True):
        if meta["policy"] not in numbers:
            raise UserError(
                f"record {record.number} (index {meta['index']}) of '{path}': policy {meta['policy']!r} "
                f"is not one of the header: {list(numbers)}."
            )
    index = np.asarray([meta["index"] for meta in metas], np.int64)
    length = np.asarray([meta["length"] for meta in metas], np.int64)
    table: Table = {
        "index": index,
        "seed": np.asarray([meta["seed"] for meta in metas], np.int64),
        "policy": np.asarray([numbers[meta["policy"]] for meta in metas], np.int32),
        "split": _split_column(header, index, [meta.get("split") for meta in metas]),
        "length": length,
        "frame_offset": np.cumsum(length + 1) - (length + 1),
        "step_offset": np.cumsum(length) - length,
        "crc": np.asarray([record.crc for _, record in ordered], np.uint32),
        "label": np.asarray([meta.get("label", NO_LABEL) for meta in metas], np.int64),
    }
    assert list(table) == list(TABLE)
    return table


def _split_column(header: Header, index: np.ndarray, given: list[str | None]) -> np.ndarray:
    """Splits as numbers, (N,) uint8; splits that are missing or superfluous are refused when an episode is written."""
    if header.split_rule != GIVEN:
        return split_numbers(header.seed, index)
    return np.asarray([SPLITS.index(split or SPLITS[0]) for split in given], np.uint8)


def _write(path: Path, header: Header, table: Table, ordered: list[Entry]) -> None:
    """Write everything except the user block."""
    with create_dataset_file(path, header, table) as writer:
        for number, (part, record) in enumerate(ordered):
            episode = read_record(part, record)
            header.check(episode)
            writer.write(number, episode, header)
            del episode  # before the next one is read
