"""The verbs `data ...`: a config dataclass and a function each."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from worldmodel.cli.outputs import refuse_existing
from worldmodel.common.errors import UserError


def _print(result: Any, as_json: bool, text: str) -> None:
    print(json.dumps(result) if as_json else text)


def _require_files(files: tuple[Path, ...]) -> list[Path]:
    if not files:
        raise UserError("name at least one dataset FILE.")
    return list(files)


@dataclass(frozen=True)
class DataInfo:
    """Summarise datasets: counts, splits, returns, lengths and actions of each policy, sizes.

    Example:
        worldmodel data info cover.h5
    """

    files: tyro.conf.Positional[tuple[Path, ...]]
    """One dataset, or several read as one."""
    json: bool = False
    """Print as JSON."""


def data_info(config: DataInfo) -> None:
    """Print the summary."""
    from worldmodel.data.dataset import Dataset
    from worldmodel.data.summary import format_summary, summarize

    with Dataset(_require_files(config.files)) as data:
        summary = summarize(data)
    _print(summary, config.json, format_summary(summary))


@dataclass(frozen=True)
class DataVerify:
    """Check every checksum, offset and split; name the first bad record.

    Example:
        worldmodel data verify cover.h5
    """

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Datasets or part files."""
    json: bool = False
    """Print as JSON."""


def data_verify(config: DataVerify) -> None:
    """Verify each file; the first bad record ends the command."""
    from worldmodel.data.verification import verify

    for path in _require_files(config.files):
        report = verify(path)
        result = {"file": str(path), "valid": True, **asdict(report)}
        result = {k: v if isinstance(v, int | float | str | bool | list | dict) else str(v) for k, v in result.items()}
        _print(result, config.json, f"{path}: valid; {report}")


@dataclass(frozen=True)
class DataPreview:
    """Write a contact sheet (PNG) and an animation (GIF) of a dataset.

    Example:
        worldmodel data preview cover.h5 --out runs/preview
    """

    file: tyro.conf.Positional[Path]
    out: Path | None = None
    """Folder for contact-sheet.png and episodes.gif; NAME.preview next to the file if not given."""
    episodes: int = 8
    """Episodes on the contact sheet."""


def data_preview(config: DataPreview) -> None:
    """Write both images and print their paths."""
    from worldmodel.data.dataset import Dataset
    from worldmodel.data.preview import contact_sheet, gif

    out = config.out or config.file.with_suffix(".preview")
    sheet, animation = out / "contact-sheet.png", out / "episodes.gif"
    with Dataset(config.file) as data:
        contact_sheet(data, sheet, num_episodes=config.episodes)
        gif(data, animation)
    print(f"{sheet}\n{animation}")


@dataclass(frozen=True)
class DataSeal:
    """Make a dataset of a recording that was stopped for good, from the complete episodes of its part files.

    Example:
        worldmodel data seal cover.h5.parts --out half.h5
    """

    folder: tyro.conf.Positional[Path]
    """NAME.h5.parts, or a folder of part files."""
    out: Path
    """The dataset to make."""
    force: bool = False
    """Replace an existing --out."""


def data_seal(config: DataSeal) -> None:
    """Seal the part files; their folder stays."""
    from worldmodel.data.dataset import Dataset
    from worldmodel.data.sealing import seal

    parts = sorted(config.folder.glob("part-*.bin"))
    if not parts:
        raise UserError(f"no part files (part-*.bin) in {config.folder}; give the folder NAME.h5.parts of a recording.")
    refuse_existing(config.out, config.force)
    seal(parts, config.out)
    with Dataset(config.out) as data:
        print(f"{config.out}: {data.num_episodes} of {data.header.num_episodes} planned episodes.")


@dataclass(frozen=True)
class DataMerge:
    """Join several datasets in one file of links (HDF5 virtual datasets); the sources must stay where they are.

    Example:
        worldmodel data merge cover.0-of-2.h5 cover.1-of-2.h5 --out cover.h5
    """

    files: tyro.conf.Positional[tuple[Path, ...]]
    out: Path
    """The file to make."""
    force: bool = False
    """Replace an existing --out."""


def data_merge(config: DataMerge) -> None:
    """Write the file of links and print its counts."""
    from worldmodel.data.dataset import Dataset
    from worldmodel.data.merging import merge

    refuse_existing(config.out, config.force)
    merge(_require_files(config.files), config.out)
    with Dataset(config.out) as data:
        print(f"{config.out}: {data.num_episodes} episodes, {data.num_steps} steps from {len(config.files)} files.")


@dataclass(frozen=True)
class DataConvert:
    """Make a dataset of videos or episodes in another format.

    Formats: npz, video, video-csv, moving-mnist, bair, videogpt-hdf5, robonet. The section "Other formats" of the guide
    docs/guides/collect.md has the layout and the options of each.

    Example:
        worldmodel data convert clips clips.h5 --size 64 64
    """

    source: tyro.conf.Positional[Path]
    """The folder or file to read; for moving-mnist also mnist-5k, an asset."""
    destination: tyro.conf.Positional[Path | None] = None
    """The dataset to make."""
    format: Annotated[str | None, tyro.conf.arg(name="from", aliases=["--format"])] = None
    """Format of the source; found by the suffixes of its files if not given."""
    out: Path | None = None
    """The dataset to make, if it is not the second word."""
    size: tuple[int, int] | None = None
    """Rows and columns of the frames, by area averaging; those of the source if not given."""
    fit: Literal["crop", "stretch"] | None = None
    """How frames of another aspect ratio become --size: crop scales the short side and keeps the centre, stretch scales
    both sides. Crop for videos without actions, otherwise stretch, if not given."""
    frame_skip: int = 1
    """Keep every n-th frame of a video."""
    num_frames: int | None = None
    """Frames of a generated sequence (20 if not given); at most the first n frames of a video."""
    num_sequences: int | None = None
    """Number of generated sequences; 10,000 if not given."""
    split_files: tuple[Path, ...] = ()
    """Lists of videos, as trainlist01.txt and testlist01.txt of UCF-101: a list is for the split that its name has."""
    ignore_splits: bool = False
    """Split by --seed, although the source has official splits."""
    camera: str = ""
    """Which camera is read, by its name in the source."""
    drop_action: Literal["first", "last"] | None = None
    """Which action is left out where a source has as many actions as frames. last: action t follows frame t. first:
    action t led to frame t."""
    action_dim: int | None = None
    """Numbers per action; shorter actions are padded with zeros."""
    env: str = ""
    """Name of the environment in the header; imported/FORMAT if not given. Merged datasets have the same."""
    seed: int = 0
    """Gives the splits of a source without official splits, and generated sequences."""
    action_labels: tuple[str, ...] = ()
    """Names of the actions if there is one integer per step; their number is inferred if not given."""
    force: bool = False
    """Replace an existing file."""


def data_convert(config: DataConvert) -> None:
    """Convert the source and print the counts."""
    from worldmodel.data.dataset import Dataset
    from worldmodel.data.importers import ImportOptions, convert

    if (config.destination is None) == (config.out is None):
        raise UserError("data convert: wanted one dataset to make, as the second word or as --out FILE.")
    out = config.destination or config.out
    assert out is not None
    refuse_existing(out, config.force)
    options = ImportOptions(**{field.name: getattr(config, field.name) for field in fields(ImportOptions)})
    path = convert(config.format, config.source, out, options, progress=True)
    with Dataset(path) as data:
        splits = ", ".join(f"{count} {name}" for name, count in data.split_counts.items())
        print(f"{out}: {data.num_episodes} episodes ({splits}), {data.num_frames} frames.")
