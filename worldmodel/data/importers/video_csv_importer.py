"""Import of a folder of videos, each with a CSV file of its actions.

Shapes: T steps, T+1 frames of H x W pixels, A numbers per action.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldmodel.common import spaces
from worldmodel.common.errors import UserError, unknown_name
from worldmodel.data.episode import Episode
from worldmodel.data.importers.action_inference import infer_space, steps_of
from worldmodel.data.importers.imported_dataset import (
    ImportedDataset,
    ImportOptions,
    imported_episode,
    imported_header,
)
from worldmodel.data.importers.video_importer import find_videos, read_clip

COLUMNS = ("action", "action_...", "reward", "terminated", "truncated", "frame")
FLAGS = {"0": False, "1": True, "false": False, "true": True}
WORDS = "words"  # the kind of actions that are names; numbers are "int" or "float"


@dataclass(frozen=True)
class ActionTable:
    """The columns of one CSV file, as text.

    Attributes:
        path: the file.
        actions: N rows of A texts.
        single: whether the one column is called action, so that an integer action has the shape ().
        columns: the other columns by their names, N texts each.
    """

    path: Path
    actions: list[list[str]]
    single: bool
    columns: dict[str, list[str]]

    def kind(self) -> str:
        """What the actions are: "int", "float" or "words"."""
        for name, convert in (("int", int), ("float", float)):
            try:
                for row in self.actions:
                    for text in row:
                        convert(text)
            except ValueError:
                continue
            return name
        return WORDS

    def array(self, kind: str, names: Sequence[str]) -> np.ndarray:
        """The actions: (N,) or (N, A) int64, or (N, A) float32.

        Raises:
            UserError: a name that is not in `names`, or a negative integer.
        """
        if kind == WORDS:
            for (word,) in self.actions:
                if word not in names:
                    raise UserError(f"'{self.path}': {unknown_name('action', word, names)}")
            return np.asarray([names.index(word) for (word,) in self.actions], np.int64)
        array = np.asarray([[float(text) for text in row] for row in self.actions])
        if kind == "float":
            return array.astype(np.float32)
        if array.min() < 0:
            raise UserError(f"'{self.path}': actions have {int(array.min())}; wanted integers counted from 0.")
        return (array[:, 0] if self.single else array).astype(np.int64)

    def flags(self, name: str) -> np.ndarray:
        """(N,) bool of a column; False without it."""
        texts = self.columns.get(name, ["0"] * len(self.actions))
        for row, text in enumerate(texts, 1):
            if text.lower() not in FLAGS:
                raise UserError(f"'{self.path}', row {row}: {name} is {text!r}; wanted 0 or 1.")
        return np.asarray([FLAGS[text.lower()] for text in texts], bool)

    def rewards(self) -> np.ndarray:
        """(N,) float32; 0 without the column."""
        try:
            return np.asarray([float(x) for x in self.columns.get("reward", ["0"] * len(self.actions))], np.float32)
        except ValueError as error:
            raise UserError(f"'{self.path}': a reward is no number: {error}.") from error


def open_video_csv(source: Path, options: ImportOptions) -> ImportedDataset:
    """Check a folder of videos, each next to a CSV file of the same name: run.mp4 and run.csv.

    Folders may name splits and classes, as for videos without actions. The first row of a CSV file names the columns:
    `action`, or `action_...` for several numbers; optionally `reward`, `terminated`, `truncated` and `frame`, which
    counts from 0. Then there is one row for each step: the action of row t is taken at frame t and leads to frame t+1.
    Integers are Discrete actions (several columns: MultiDiscrete), words are Discrete actions with labels, other
    numbers are an unbounded Box.

    Args:
        source: the folder.
        options: options of the import; `drop_action` for files with as many rows as frames.

    Raises:
        UserError: a file is missing, damaged or disagrees with the others; the message names it.
    """
    videos = find_videos(source, options)
    tables = [read_table(path.with_suffix(".csv")) for path in videos.paths]
    kind = _common_kind(tables)
    names = options.action_labels or tuple(sorted({row[0] for table in tables for row in table.actions}))
    labels = names if kind == WORDS else ()
    arrays = [table.array(kind, names) for table in tables]
    if kind == WORDS:
        space: spaces.Space = spaces.Discrete(len(names))
    else:
        space = infer_space([a.max(axis=0) for a in arrays], [t.path for t in tables], source, options)
    header = imported_header(
        "video-csv", options, videos.size, space, videos.class_names, videos.splits, action_labels=labels
    )

    def episodes() -> Iterator[Episode]:
        for index, (path, table) in enumerate(zip(videos.paths, tables, strict=True)):
            frames = read_clip(path, videos.size, options, options.fit or "stretch")
            where = f"'{table.path}'"

            def steps(column: np.ndarray, num_frames: int = len(frames), where: str = where) -> np.ndarray:
                return steps_of(column, num_frames, options.drop_action, where)

            yield imported_episode(
                frames,
                index,
                where,
                actions=steps(arrays[index]),
                rewards=steps(table.rewards()),
                terminations=steps(table.flags("terminated")),
                truncations=steps(table.flags("truncated")),
                label=videos.labels[index],
                split=videos.splits[index],
            )
            del frames, steps  # before those of the next episode are read

    return ImportedDataset(header, episodes)


def read_table(path: Path) -> ActionTable:
    """The columns of a CSV file.

    Raises:
        UserError: the file is missing or has other columns; the message names file and column.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel writes a byte order mark
            names, *rows = [[text.strip() for text in row] for row in csv.reader(file) if row] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"'{path}' cannot be read as CSV: {error}; wanted one for each video, of the same name."
        ) from error
    if len(names) == 1 and any(mark in names[0] for mark in ";\t"):
        raise UserError(f"'{path}', first row: {names[0]!r} is not separated by commas; wanted commas.")
    actions = [i for i, name in enumerate(names) if name == "action" or name.startswith("action_")]
    for name in names:
        if name not in COLUMNS and not name.startswith("action_"):
            raise UserError(f"'{path}', first row: {unknown_name('column', name, COLUMNS)}")
    if not actions or not rows or len(set(names)) < len(names):
        raise UserError(
            f"'{path}' has the columns {names} and {len(rows)} rows; wanted action and one row for each step."
        )
    for number, row in enumerate(rows, 1):
        if len(row) != len(names):
            raise UserError(f"'{path}', row {number} has {len(row)} values; wanted {len(names)}: {', '.join(names)}.")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names) if i not in actions}
    frames = columns.pop("frame", [str(i) for i in range(len(rows))])
    for number, text in enumerate(frames):
        if text != str(number):
            raise UserError(f"'{path}', row {number + 1}: frame is {text!r}; wanted {number}, one row for each frame.")
    return ActionTable(path, [[row[i] for i in actions] for row in rows], names[actions[0]] == "action", columns)


def _common_kind(tables: list[ActionTable]) -> str:
    """The kind of actions that all files have; integers are floats if other files have floats."""
    kinds = [table.kind() for table in tables]
    for kind, table in zip(kinds, tables, strict=True):
        if len(table.actions[0]) != len(tables[0].actions[0]):
            counts = f"{len(table.actions[0])} action columns; wanted {len(tables[0].actions[0])}"
            raise UserError(f"'{table.path}' has {counts} as in '{tables[0].path}'.")
        if kind == WORDS and len(table.actions[0]) > 1:
            raise UserError(f"'{table.path}' has actions that are no numbers; wanted numbers in several columns.")
        if (kind == WORDS) != (kinds[0] == WORDS):
            raise UserError(f"'{table.path}' and '{tables[0].path}': one has words, one numbers; wanted the same.")
    return WORDS if WORDS in kinds else "float" if "float" in kinds else "int"
