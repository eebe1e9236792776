"""The small verbs: tables and looks at data. Each is a config dataclass and a function of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from worldmodel.common.errors import UserError


def _print(result: Any, as_json: bool, text: str) -> None:
    print(json.dumps(result) if as_json else text)


@dataclass(frozen=True)
class Envs:
    """List the environments that are known; any other gymnasium id with a supported action space works too.

    Example:
        worldmodel envs
    """

    json: bool = False
    """Print the table as JSON."""


def envs(config: Envs) -> None:
    """Print the registry."""
    from worldmodel.envs import rows

    table = [
        {
            "name": row.name,
            "id": row.id,
            "actions": list(row.action_labels),
            "reward": row.reward,
            "needs": row.requires,
        }
        for row in rows()
    ]
    width = max(len(row.name) for row in rows())
    lines = []
    for row in rows():
        actions = ", ".join(row.action_labels) or "see the environment"
        lines.append(f"{row.name:<{width}}  {row.id}\n{'':<{width}}  actions: {actions}. Reward: {row.reward}")
        if row.requires:
            lines.append(f"{'':<{width}}  needs: {row.requires}")
    _print(table, config.json, "\n".join(lines))


@dataclass(frozen=True)
class DataInfo:
    """Say what datasets hold: counts, splits, returns, lengths and actions of each policy, sizes.

    Example:
        worldmodel data info cover.h5
    """

    files: tyro.conf.Positional[tuple[Path, ...]]
    """One dataset, or several read as one."""
    json: bool = False
    """Print as JSON."""


def data_info(config: DataInfo) -> None:
    """Print a summary."""
    from worldmodel.data.dataset import Dataset
    from worldmodel.data.summary import format_summary, summarize

    with Dataset(_some(config.files)) as data:
        summary = summarize(data)
    _print(summary, config.json, format_summary(summary))


def _some(files: tuple[Path, ...]) -> list[Path]:
    if not files:
        raise UserError("name at least one dataset FILE.")
    return list(files)


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
    """Verify each file."""
    import dataclasses

    from worldmodel.data.verification import verify

    for path in _some(config.files):
        report = verify(path)
        result = {"file": str(path), "sound": True, **dataclasses.asdict(report)}
        result = {k: v if isinstance(v, int | float | str | bool | list | dict) else str(v) for k, v in result.items()}
        _print(result, config.json, f"{path}: sound; {report}")


@dataclass(frozen=True)
class DataPreview:
    """Draw a contact sheet (PNG) and an animation (GIF) of a dataset.

    Example:
        worldmodel data preview cover.h5 --out runs/preview
    """

    file: tyro.conf.Positional[Path]
    out: Path | None = None
    """Folder for contact-sheet.png and episodes.gif; NAME.preview beside the file if not given."""
    episodes: int = 8
    """Episodes on the sheet."""


def data_preview(config: DataPreview) -> None:
    """Write the pictures and say where."""
    from worldmodel.data.dataset import Dataset
    from worldmodel.data.preview import contact_sheet, gif

    out = config.out or config.file.with_suffix(".preview")
    with Dataset(config.file) as data:
        out.mkdir(parents=True, exist_ok=True)
        contact_sheet(data, out / "contact-sheet.png", num_episodes=config.episodes)
        gif(data, out / "episodes.gif")
    print(f"{out / 'contact-sheet.png'}\n{out / 'episodes.gif'}")


@dataclass(frozen=True)
class DataSeal:
    """Seal the part files of a recording that was stopped for good: what is whole becomes a dataset.

    Example:
        worldmodel data seal cover.h5.parts --out half.h5
    """

    folder: tyro.conf.Positional[Path]
    """NAME.h5.parts, or a folder of part files."""
    out: Path
    """The dataset to make."""
    force: bool = False
    """Replace what stands at --out."""


def data_seal(config: DataSeal) -> None:
    """Seal what there is; the folder stays."""
    from worldmodel.data.dataset import Dataset
    from worldmodel.data.sealing import seal

    parts = sorted(config.folder.glob("part-*.bin"))
    if not parts:
        raise UserError(f"no part files (part-*.bin) in {config.folder}; give the folder NAME.h5.parts of a recording.")
    if config.out.exists() and not config.force:
        raise UserError(f"{config.out} exists; choose another --out, or --force to replace it.")
    seal(parts, config.out)
    with Dataset(config.out) as data:
        print(f"{config.out}: {data.num_episodes} of {data.header.num_episodes} planned episodes.")


@dataclass(frozen=True)
class DataMerge:
    """Several datasets as one file of links (HDF5 virtual datasets); the sources must stay where they are.

    Example:
        worldmodel data merge cover.0-of-2.h5 cover.1-of-2.h5 --out cover.h5
    """

    files: tyro.conf.Positional[tuple[Path, ...]]
    out: Path
    """The file to make."""
    force: bool = False
    """Replace what stands at --out."""


def data_merge(config: DataMerge) -> None:
    """Merge."""
    from worldmodel.data.dataset import Dataset
    from worldmodel.data.merging import merge

    if config.out.exists() and not config.force:
        raise UserError(f"{config.out} exists; choose another --out, or --force to replace it.")
    merge(_some(config.files), config.out)
    with Dataset(config.out) as data:
        print(f"{config.out}: {data.num_episodes} episodes, {data.num_steps} steps from {len(config.files)} files.")


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int, dict[str, float]], None]]:
    """A bar on stderr for the stages of a training, as `train_world` reports them."""
    from tqdm import tqdm

    bars: dict[str, Any] = {}

    def progress(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        bar = bars.get(stage)
        if bar is None:
            for earlier in bars.values():
                earlier.close()
            bar = bars[stage] = tqdm(desc=stage, unit="step")
        bar.total = total or None
        bar.n = done
        bar.set_postfix({k: f"{v:.3g}" for k, v in list(figures.items())[:4]}, refresh=False)
        bar.refresh()

    try:
        yield progress
    finally:
        for bar in bars.values():
            bar.close()
