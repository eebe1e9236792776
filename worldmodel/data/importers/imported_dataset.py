"""What an importer returns, and what importers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from worldmodel.common import spaces
from worldmodel.common.errors import UserError, unknown_name
from worldmodel.common.pixels import PixelSpec
from worldmodel.common.version import VERSION
from worldmodel.data.episode import Episode
from worldmodel.data.header import Header, PolicyRecord
from worldmodel.data.splits import GIVEN, HASH, SPLITS

POLICY = "imported"  # the policy name of imported episodes
SPLIT_NAMES = {**{name: name for name in SPLITS}, "valid": "validation", "val": "validation"}


@dataclass(frozen=True)
class ImportOptions:
    """Options that importers share.

    Attributes:
        env: the name of the environment in the header; "" for "imported/" and the format.
        size: (H, W) of the frames, by area averaging; None keeps the size of the source.
        frame_skip: keep every n-th frame of a source without actions.
        seed: gives the splits of episodes without a given split.
        action_labels: the name of each action of integer actions (T,), which gives their number; empty infers the
            number from the data.

    Raises:
        UserError: a number out of its range.
    """

    env: str = ""
    size: tuple[int, int] | None = None
    frame_skip: int = 1
    seed: int = 0
    action_labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.size is not None:
            PixelSpec(self.size)
        if self.frame_skip < 1:
            raise UserError(f"frame_skip={self.frame_skip}; wanted at least 1.")


@dataclass(frozen=True)
class ImportedDataset:
    """A checked source.

    Attributes:
        header: the header of the new file; `num_episodes` is exact.
        episodes: makes an iterator over the episodes, with indices 0, 1, ...
    """

    header: Header
    episodes: Callable[[], Iterator[Episode]]


def imported_header(
    format: str,
    options: ImportOptions,
    size: tuple[int, int],
    space: spaces.Space,
    class_names: Sequence[str],
    splits: Sequence[str | None],
) -> Header:
    """The header of imported episodes.

    Args:
        format: the name of the format.
        options: the options of the import.
        size: (H, W) of the frames, if the options do not give it.
        space: the action space.
        class_names: the names of the classes; empty without labels.
        splits: for each episode its given split; all None, or none.
    """
    return Header(
        env=options.env or f"imported/{format}",
        pixels=PixelSpec(options.size or size),
        action_space=space,
        action_labels=options.action_labels,
        frame_skip=options.frame_skip,
        seed=options.seed,
        num_episodes=len(splits),
        policies=(PolicyRecord(POLICY),),
        class_names=tuple(class_names),
        split_rule=HASH if splits[0] is None else GIVEN,
        code_version=VERSION,
    )


def source_files(source: Path, suffixes: Sequence[str], what: str) -> list[Path]:
    """The files below a folder with these suffixes, sorted by path; hidden files are left out.

    Raises:
        UserError: the folder is missing or has no such file.
    """
    if not source.is_dir():
        raise UserError(f"'{source}' is not a folder; wanted a folder of {what}.")
    files = [path for path in sorted(source.rglob("*")) if path.suffix.lower() in suffixes]
    files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(source).parts)]
    if not files:
        raise UserError(f"'{source}' has no {what}; wanted files that end in {', '.join(suffixes)}.")
    return files


def parse_split(name: str, where: str) -> str:
    """A split by one of its names: "train"; "validation", "valid" or "val"; "test".

    Raises:
        UserError: another name; `where` is the subject of the message.
    """
    if name not in SPLIT_NAMES:
        raise UserError(f"{where}: {unknown_name('split', name, SPLIT_NAMES)}")
    return SPLIT_NAMES[name]
