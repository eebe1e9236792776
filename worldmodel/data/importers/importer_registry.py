"""The registry of importers: one row per format."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from worldmodel.common.errors import unknown_name
from worldmodel.data.importers.imported_dataset import ImportedDataset, ImportOptions


@dataclass(frozen=True)
class ImporterRow:
    """One format.

    Attributes:
        entry_point: "module:function", imported when it is used. The function takes the path of the source and
            `ImportOptions`, checks the source, and returns an `ImportedDataset`.
        help: what is read, one line.
    """

    entry_point: str
    help: str

    def load(self) -> Callable[[Path, ImportOptions], ImportedDataset]:
        """Import the function."""
        module, _, name = self.entry_point.partition(":")
        function: Callable[[Path, ImportOptions], ImportedDataset] = getattr(importlib.import_module(module), name)
        return function


IMPORTERS: dict[str, ImporterRow] = {
    "npz": ImporterRow(
        "worldmodel.data.importers.npz_importer:open_npz",
        "a folder of .npz files, one per episode: frames and optional actions, rewards, ends, label, split",
    ),
    "video": ImporterRow(
        "worldmodel.data.importers.video_importer:open_videos",
        "a folder of video files, one per episode; folders inside it may name splits and classes",
    ),
}


def find_importer(name: str) -> ImporterRow:
    """The row of a format.

    Raises:
        UserError: no such format; the error names the closest and lists all.
    """
    if name not in IMPORTERS:
        raise unknown_name("format", name, IMPORTERS)
    return IMPORTERS[name]
