"""What an importer returns, and what importers share.

Shapes: T steps, T+1 frames of H x W pixels, A numbers per action.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldmodel.common import spaces
from worldmodel.common.errors import UserError, unknown_name
from worldmodel.common.pixels import PixelSpec
from worldmodel.common.version import VERSION
from worldmodel.data.episode import Episode
from worldmodel.data.header import Header, PolicyRecord
from worldmodel.data.importers.import_options import ImportOptions as ImportOptions
from worldmodel.data.splits import BLOCK, GIVEN, HASH, SPLITS, split_numbers

POLICY = "imported"  # the policy name of imported episodes
VIDEO_SUFFIXES = (".mp4", ".gif", ".avi", ".mov", ".mkv", ".webm")
SPLIT_NAMES = {**{name: name for name in SPLITS}, "valid": "validation", "val": "validation"}


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
    variables: Sequence[str] = (),
    action_labels: Sequence[str] = (),
) -> Header:
    """The header of imported episodes.

    Args:
        format: the name of the format.
        options: the options of the import.
        size: (H, W) of the frames, if the options do not give it.
        space: the action space.
        class_names: the names of the classes; empty without labels.
        splits: for each episode its given split; all None, or none.
        variables: the names of the variables.
        action_labels: the names of the actions, if the options do not give them.
    """
    return Header(
        env=options.env or f"imported/{format}",
        pixels=PixelSpec(options.size or size),
        action_space=space,
        action_labels=options.action_labels or tuple(action_labels),
        frame_skip=options.frame_skip,
        seed=options.seed,
        num_episodes=len(splits),
        policies=(PolicyRecord(POLICY),),
        class_names=tuple(class_names),
        variables=tuple(sorted(variables)),
        split_rule=HASH if splits[0] is None else GIVEN,
        code_version=VERSION,
    )


def imported_episode(
    frames: np.ndarray,
    index: int,
    where: str,
    *,
    actions: np.ndarray | None = None,
    rewards: np.ndarray | None = None,
    terminations: np.ndarray | None = None,
    truncations: np.ndarray | None = None,
    variables: Mapping[str, np.ndarray] | None = None,
    label: int | None = None,
    split: str | None = None,
) -> Episode:
    """An episode; what the source lacks is no actions, rewards of 0, and no termination or truncation.

    Args:
        frames: (T+1, H, W, 3) uint8.
        index: the number of the episode.
        where: the subject of error messages.
        actions, rewards, terminations, truncations, variables, label, split: as in `Episode`.

    Raises:
        UserError: the arrays are no valid episode.
    """
    length = len(frames) - 1
    try:
        return Episode(
            frames=frames,
            frame_valid=np.ones(length + 1, bool),
            actions=np.zeros((length, 0), np.int64) if actions is None else actions,
            rewards=np.zeros(length, np.float32) if rewards is None else rewards,
            terminations=np.zeros(length, bool) if terminations is None else terminations,
            truncations=np.zeros(length, bool) if truncations is None else truncations,
            variables=variables or {},
            index=index,
            seed=index,
            policy=POLICY,
            label=label,
            split=split,
        )
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def source_files(source: Path, suffixes: Sequence[str], what: str) -> list[Path]:
    """The files below a folder with these suffixes, sorted by path; hidden files are left out.

    Raises:
        UserError: the folder is missing or has no such file.
    """
    if not source.is_dir():
        raise UserError(f"'{source}' is not a folder; wanted a folder of {what}.")
    files = visible_files(source, suffixes)
    if not files:
        raise UserError(f"'{source}' has no {what}; wanted files that end in {', '.join(suffixes)}.")
    return files


def visible_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files below a folder with these suffixes, sorted by path; hidden files and folders are left out."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in suffixes and path.is_file()]
    return [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def parse_split(name: str, where: str) -> str:
    """A split by one of its names: "train"; "validation", "valid" or "val"; "test".

    Raises:
        UserError: another name; `where` is the subject of the message.
    """
    if name not in SPLIT_NAMES:
        raise UserError(f"{where}: {unknown_name('split', name, SPLIT_NAMES)}")
    return SPLIT_NAMES[name]


def official_splits(splits: Sequence[str | None], options: ImportOptions) -> list[str | None]:
    """The splits of a source, with validation episodes.

    If the source has ten or more train episodes and no validation episode, the rule "hash" over the train episodes
    chooses every tenth of them for validation.

    Args:
        splits: for each episode its split in the source; all None if the source has none.
        options: `seed` for the rule; `ignore_splits` gives None for all.
    """
    if options.ignore_splits or None in splits:
        return [None] * len(splits)
    train = [i for i, split in enumerate(splits) if split == "train"]
    chosen = list(splits)
    if "validation" not in splits and len(train) >= BLOCK:
        rule = split_numbers(options.seed, np.arange(len(train)))
        for i, number in zip(train, rule, strict=True):
            chosen[i] = "validation" if number == SPLITS.index("validation") else "train"
    return chosen
