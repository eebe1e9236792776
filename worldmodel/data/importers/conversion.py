"""Conversion of a dataset of another format into a sealed file."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tqdm import tqdm

from worldmodel.common.errors import UserError
from worldmodel.common.files import expand_path, new_folders, write_error
from worldmodel.data.importers.imported_dataset import ImportedDataset, ImportOptions
from worldmodel.data.importers.importer_registry import detect_format, find_importer
from worldmodel.data.parts import PartWriter
from worldmodel.data.sealing import seal


def convert(
    format: str | None,
    source: str | Path,
    out: str | Path,
    options: ImportOptions | None = None,
    *,
    progress: bool = False,
) -> Path:
    """Write the episodes of a source in another format to one sealed file, atomically.

    One episode at a time is in memory. An existing file is replaced.

    Args:
        format: the name of an importer, see `IMPORTERS`; None to choose it by the files of the source.
        source: the folder or file to read, or the name of an asset where the format takes one.
        out: the dataset to write.
        options: options of the import; None for the defaults.
        progress: show a progress bar on stderr.

    Returns:
        The path of the dataset.

    Raises:
        UserError: an unknown format, an option that the format does not use, a source that cannot be read (the message
            names file and key), or `out` cannot be written.
    """
    out, source, options = expand_path(out), expand_path(source), options or ImportOptions()
    if out.resolve() == source.resolve():
        raise UserError(f"'{out}' is the source; wanted another path for the dataset.")
    if out.is_dir():
        raise UserError(f"'{out}' is a folder; wanted the path of a file.")
    format = format or detect_format(source)
    row = find_importer(format)
    options.check_used(format, row.options)
    imported: ImportedDataset = row.load()(source, options)
    with new_folders(out.parent), _temporary_folder(out) as name:
        part = Path(name) / "part-000.bin"
        with PartWriter(part, imported.header, durable=False) as writer:
            total = imported.header.num_episodes
            with tqdm(desc="converting", total=total, unit="episode", disable=not progress) as bar:
                for episode in imported.episodes():  # not through tqdm, which would keep the last episode in memory
                    writer.append(episode)
                    del episode
                    bar.update()
        return seal([part], out, indices=imported.header.indices)


def _temporary_folder(out: Path) -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent)
    except OSError as error:
        raise write_error(out, error) from error
