"""Merging sealed files: a small file of HDF5 virtual datasets over them.

Any HDF5 library reads it as one file, but returns zeros for a missing source. `Dataset` opens the sources directly
and refuses the file if one is missing or has changed.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from worldmodel.common.errors import UserError
from worldmodel.common.files import atomic_path, expand_path
from worldmodel.data.hdf5_writing import check_writable, metadata_size
from worldmodel.data.header import Header, canonical_json
from worldmodel.data.layout import (
    HDF5_OPTIONS,
    MERGED,
    array_layout,
    write_metadata,
    write_user_block,
)
from worldmodel.data.sources import Source, check_no_duplicates, join_metadata, open_sources


def merge(paths: Sequence[str | Path], out: str | Path) -> Path:
    """Write a file that presents several sealed files as one, without copying them.

    The paths of the sources are stored relative to the folder of `out`: move the files together.

    Args:
        paths: sealed or merged files of the same environment; their order gives the order of the episodes.
        out: the file to write.

    Returns:
        The path of the file.

    Raises:
        UserError: files of different environments (the message names the field), an episode in two files, or `out`
            cannot be written.
    """
    out, inputs = expand_path(out), [expand_path(path) for path in paths]
    if any(path.absolute() == out.absolute() for path in inputs):
        raise UserError(f"'{out}' is one of the files to merge; choose another name for the merged file.")
    sources = [source for path in inputs for source in open_sources(path)]
    if not sources:
        raise UserError(f"there is nothing to merge into '{out}'; give the paths of at least one sealed file.")
    header, table = join_metadata(sources)
    check_no_duplicates(sources)
    folder = os.path.abspath(out.parent)
    names = [Path(os.path.relpath(source.path, folder)).as_posix() for source in sources]
    entries = [
        {"file": name, "fingerprint": source.fingerprint, "episodes": len(source.table["length"])}
        for name, source in zip(names, sources, strict=True)
    ]
    text = canonical_json(entries).encode("ascii")
    num_arrays = 7 + len(header.variables)
    num_bytes = metadata_size(header, len(table["length"])) + len(text)
    num_bytes += sum(num_arrays * (512 + 2 * len(name)) for name in names)  # the mappings of virtual datasets
    with atomic_path(out) as temporary:
        check_writable(temporary, num_bytes, num_bytes)
        with h5py.File(temporary, "w", **HDF5_OPTIONS) as file:
            write_metadata(file, MERGED, header, table)
            file.attrs["sources"] = np.bytes_(text)
            file.attrs["sources_crc"] = np.uint32(zlib.crc32(text))
            _write_virtual_datasets(file, header, sources, names)
        write_user_block(temporary, MERGED)
    return out


def _write_virtual_datasets(file: h5py.File, header: Header, sources: list[Source], names: list[str]) -> None:
    """Write each array as a virtual dataset over the sources, whose paths in the file are `names`."""
    for name, dtype, entry, _ in array_layout(header):
        if 0 in entry:  # no bytes to link to
            file.create_dataset(name, (int(sum(source.locations[name][2][0] for source in sources)), *entry), dtype)
            continue
        counts = [source.locations[name][2][0] for source in sources]
        layout = h5py.VirtualLayout((sum(counts), *entry), dtype)
        begin = 0
        for source_name, count in zip(names, counts, strict=True):
            layout[begin : begin + count] = h5py.VirtualSource(source_name, name, (count, *entry), dtype)
            begin += count
        file.create_virtual_dataset(name, layout)
