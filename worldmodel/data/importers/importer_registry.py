"""The registry of importers: one row per format."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from worldmodel.common.errors import UserError, unknown_name
from worldmodel.data.importers.imported_dataset import VIDEO_SUFFIXES, ImportedDataset, ImportOptions, visible_files


@dataclass(frozen=True)
class ImporterRow:
    """One format.

    Attributes:
        entry_point: "module:function", imported when it is used. The function takes the path of the source and
            `ImportOptions`, checks the source, and returns an `ImportedDataset`.
        help: what is read, one line.
        folder: for each kind of file that a folder in this format has, the suffixes; empty if the source is a file.
        file: the suffixes of a source that is one file.
        options: the fields of `ImportOptions` that the format uses besides the common ones.
        assets: names of assets that may stand for the source.
        tested_on: "real bytes" or "made files": what the tests read.
    """

    entry_point: str
    help: str
    folder: tuple[tuple[str, ...], ...] = ()
    file: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    assets: tuple[str, ...] = ()
    tested_on: str = "made files"

    def load(self) -> Callable[[Path, ImportOptions], ImportedDataset]:
        """Import the function."""
        module, _, name = self.entry_point.partition(":")
        function: Callable[[Path, ImportOptions], ImportedDataset] = getattr(importlib.import_module(module), name)
        return function

    def accepts(self, source: Path) -> bool:
        """Whether a source has the files of this format, by their suffixes."""
        if source.is_dir():
            return bool(self.folder) and all(visible_files(source, suffixes) for suffixes in self.folder)
        if not source.exists():
            return source.as_posix() in self.assets
        return source.suffix.lower() in self.file


IMPORTERS: dict[str, ImporterRow] = {
    "npz": ImporterRow(
        "worldmodel.data.importers.npz_importer:open_npz",
        "a folder of .npz files, one per episode: frames and optional actions, rewards, ends, label, split",
        folder=((".npz",),),
        options=("action_labels", "camera", "drop_action"),
    ),
    "video": ImporterRow(
        "worldmodel.data.importers.video_importer:open_videos",
        "a folder of video files, one per episode; folders or lists may name splits, folders classes",
        folder=(VIDEO_SUFFIXES,),
        options=("frame_skip", "num_frames", "split_files"),
        tested_on="real bytes",
    ),
    "video-csv": ImporterRow(
        "worldmodel.data.importers.video_csv_importer:open_video_csv",
        "a folder of video files, each next to a .csv file of its actions",
        folder=(VIDEO_SUFFIXES, (".csv",)),
        options=("action_labels", "drop_action", "split_files"),
    ),
    "bair": ImporterRow(
        "worldmodel.data.importers.bair_importer:open_bair",
        "the TFRecords of BAIR robot pushing, in folders train and test",
        folder=((".tfrecords", ".tfrecord"),),
        options=("camera",),
    ),
    "videogpt-hdf5": ImporterRow(
        "worldmodel.data.importers.videogpt_importer:open_videogpt",
        "an HDF5 file of VideoGPT's layout (bair.hdf5): train_data, train_idx, test_data, test_idx",
        file=(".hdf5", ".h5"),
    ),
    "robonet": ImporterRow(
        "worldmodel.data.importers.robonet_importer:open_robonet",
        "a folder of RoboNet's HDF5 files, one per episode",
        folder=((".hdf5", ".h5"),),
        options=("camera", "action_dim"),
    ),
    "moving-mnist": ImporterRow(
        "worldmodel.data.importers.moving_mnist_importer:open_moving_mnist",
        "mnist_test_seq.npy, or sequences generated from a file of digits",
        file=(".npy", ".gz", ".csv", ""),
        options=("num_frames", "num_sequences"),
        assets=("mnist-5k",),
        tested_on="real bytes",
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


def detect_format(source: Path) -> str:
    """The format of a source, by the suffixes of its files.

    Of several formats the one that needs the most kinds of files is chosen: a folder of videos and CSV files is not a
    folder of videos.

    Raises:
        UserError: the source does not exist, or it has the files of no format or of several.
    """
    found = [name for name, row in IMPORTERS.items() if row.accepts(source)]
    most = max((len(IMPORTERS[name].folder) for name in found), default=0)
    best = [name for name in found if len(IMPORTERS[name].folder) == most]
    if len(best) == 1:
        return best[0]
    if not source.exists():
        raise UserError(f"'{source}' does not exist; wanted a folder or a file to convert.")
    problem = f"has files of the formats {', '.join(best)}" if best else "has no files of a known format"
    raise UserError(f"'{source}' {problem}; choose one with --from: {', '.join(IMPORTERS)}.")
