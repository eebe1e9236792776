"""Several sealed files as one: a small file of HDF5 virtual datasets over them.

Anyone's h5py reads it as if it were one file. HDF5 gives zeros for a source that is missing; our reader goes
to the sources itself and refuses them when they are missing or have changed.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from worldmodel.data.files import atomic_path
from worldmodel.data.hdf5 import HDF5_OPTIONS
from worldmodel.data.header import Header, canonical_json, combine
from worldmodel.data.layout import (
    DATASET,
    MERGED,
    TABLE,
    Source,
    Table,
    array_layout,
    check_first_block,
    open_file,
    open_hdf5,
    open_source,
    read_head,
    seal_first_block,
    write_head,
)
from worldmodel.errors import UserError


def merge(paths: Sequence[str | Path], out: str | Path) -> Path:
    """Write a file that shows several sealed files as one, without copying them.

    It names its sources relative to its own folder: move them together.

    Args:
        paths: sealed or merged files of the same world, in the order the episodes shall have.
        out: the file to write.

    Returns:
        The path of the file.

    Raises:
        UserError: the files disagree about the world (the sentence names the field), or an episode is in two.
    """
    from worldmodel.data.dataset import refuse_twice

    out = Path(out)
    if any(Path(path).absolute() == out.absolute() for path in paths):
        raise UserError(f"'{out}' is one of the files to merge; give the merged file another name.")
    sources = [source for path in paths for source in open_sources(Path(path))]
    if not sources:
        raise UserError(f"there is nothing to merge into '{out}': no file was given.")
    header, table = joined_head(sources)
    refuse_twice(sources)
    folder = os.path.abspath(out.parent)
    names = [Path(os.path.relpath(source.path, folder)).as_posix() for source in sources]
    told = [
        {"file": name, "fingerprint": source.fingerprint, "episodes": len(source.table["length"])}
        for name, source in zip(names, sources, strict=True)
    ]
    text = canonical_json(told).encode("ascii")
    with atomic_path(out) as temporary:
        with h5py.File(temporary, "w", **HDF5_OPTIONS) as file:
            write_head(file, MERGED, header, table)
            file.attrs["sources"] = np.bytes_(text)
            file.attrs["sources_crc"] = np.uint32(zlib.crc32(text))
            for name, dtype, entry, _ in array_layout(header):
                counts = [source.places[name][2][0] for source in sources]
                layout = h5py.VirtualLayout((sum(counts), *entry), dtype)
                begin = 0
                for source_name, count in zip(names, counts, strict=True):
                    virtual = h5py.VirtualSource(source_name, name, (count, *entry), dtype)
                    layout[begin : begin + count] = virtual
                    begin += count
                file.create_virtual_dataset(name, layout)
        seal_first_block(temporary, MERGED)
    return out


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
    for place, fingerprint in read_merged(path)[2]:
        if not place.exists():
            raise UserError(
                f"'{path}' shows '{place}' among others, and that file is missing. Put it back there, or "
                "merge the files again."
            )
        source = open_source(place)
        if source.fingerprint != fingerprint:
            raise UserError(f"'{place}' has changed since it was merged into '{path}'. Merge the files again.")
        sources.append(source)
    return sources
