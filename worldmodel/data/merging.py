"""Several sealed files as one: a small file of HDF5 virtual datasets over them.

Anyone's h5py reads it as if it were one file. HDF5 gives zeros for a source that is missing; our reader goes
to the sources itself and refuses them when they are missing or have changed.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from worldmodel.common.errors import UserError
from worldmodel.common.files import atomic_path
from worldmodel.data.header import canonical_json
from worldmodel.data.layout import (
    HDF5_OPTIONS,
    MERGED,
    array_layout,
    seal_first_block,
    write_head,
)
from worldmodel.data.sources import joined_head, open_sources, refuse_twice


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
