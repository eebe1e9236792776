"""Import of a folder of .npz files, one per episode.

Shapes: T steps, T+1 frames of H x W pixels, A numbers per action.
"""

from __future__ import annotations

import difflib
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldmodel.common.errors import UserError, unknown_name
from worldmodel.common.pixels import PixelSpec
from worldmodel.data.episode import Episode
from worldmodel.data.importers.action_inference import infer_space, steps_of
from worldmodel.data.importers.array_frames import frames_from_array
from worldmodel.data.importers.frame_conversion import fit_frames
from worldmodel.data.importers.imported_dataset import (
    ImportedDataset,
    ImportOptions,
    imported_episode,
    imported_header,
    parse_split,
    source_files,
)

# What an episode has, by the keys that name it; the first one is that of this package.
KEYS: dict[str, tuple[str, ...]] = {
    "frames": ("frames", "image", "images", "observation", "observations", "obs"),
    "actions": ("actions", "action"),
    "rewards": ("rewards", "reward"),
    "terminations": ("terminations", "termination", "terminated", "is_terminal"),
    "truncations": ("truncations", "truncation", "truncated"),
    "label": ("label",),
    "split": ("split",),
}
SIMILAR = 0.8  # other keys are left out, but one as similar as this to a known key is a mistake


class NpzFile:
    """One .npz file, open in a `with` block; its arrays are read and checked when they are accessed.

    Args:
        path: the file.
        camera: the key of the frames; "" for one of `KEYS`.
        drop: `ImportOptions.drop_action`.

    Raises:
        UserError: not a .npz file, a key that resembles a known one, two keys of one meaning, or no frames.
    """

    def __init__(self, path: Path, camera: str = "", drop: str | None = None) -> None:
        self.path, self._drop = path, drop
        try:
            arrays = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"'{path}' cannot be read as .npz: {error}.") from error
        if isinstance(arrays, np.ndarray):
            raise UserError(f"'{path}' has a single array; wanted a .npz file with the key 'frames'.")
        self._arrays = arrays
        try:
            self._keys = self._find_keys(list(arrays), camera)
        except UserError:
            arrays.close()
            raise

    def _find_keys(self, found: list[str], camera: str) -> dict[str, str]:
        """Meaning -> key in the file."""
        if camera and camera not in found:
            raise UserError(f"'{self.path}': {unknown_name('camera', camera, found)}")
        known = [name for meaning, names in KEYS.items() for name in names if meaning != "frames"]
        keys: dict[str, str] = {"frames": camera} if camera else {}
        for key in found:
            meaning = next((meaning for meaning, names in KEYS.items() if key in names), None)
            if key == camera or (camera and meaning == "frames"):
                continue
            if meaning is None:
                if difflib.get_close_matches(key, known, n=1, cutoff=SIMILAR):
                    raise UserError(f"'{self.path}': {unknown_name('key', key, known)} Rename it.")
            elif meaning in keys:
                remedy = "choose one with --camera" if meaning == "frames" else "remove one"
                raise UserError(f"'{self.path}' has {keys[meaning]!r} and {key!r}; {remedy}.")
            else:
                keys[meaning] = key
        if "frames" not in keys:
            names = ", ".join(KEYS["frames"])
            raise UserError(f"'{self.path}' has the keys {found}; wanted one of {names}, or --camera KEY.")
        return keys

    def __enter__(self) -> NpzFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._arrays.close()

    def __contains__(self, key: str) -> bool:
        """Whether the file has an array of a meaning, a key of `KEYS`."""
        return key in self._keys

    def array(self, key: str) -> np.ndarray:
        """One array.

        Raises:
            UserError: the array is damaged, or of Python objects.
        """
        try:
            return np.asarray(self._arrays[self._keys[key]])
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"'{self.path}': {self._keys[key]} cannot be read: {error}.") from error

    def fail(self, key: str, array: np.ndarray, wanted: str) -> UserError:
        """An error that names file, key, what is there and what is wanted."""
        return UserError(f"'{self.path}': {self._keys[key]} has shape {array.shape} {array.dtype}; wanted {wanted}.")

    def frames(self) -> np.ndarray:
        """(T+1, H, W, 3) uint8."""
        return frames_from_array(self.array("frames"), f"'{self.path}': {self._keys['frames']}")

    def actions(self) -> np.ndarray | None:
        """(T,) or (T, A) int64, or (T, A) float32; None without actions."""
        if "actions" not in self:
            return None
        actions = self.array("actions")
        kind = actions.dtype.kind
        if actions.ndim not in (1, 2) or kind not in "iubf" or (actions.ndim == 1 and kind == "f") or not actions.size:
            raise self.fail("actions", actions, "(T,) or (T, A) integers, or (T, A) floats")
        if kind != "f" and int(actions.min()) < 0:
            raise UserError(f"'{self.path}': actions have {int(actions.min())}; wanted integers counted from 0.")
        return actions.astype(np.float32 if kind == "f" else np.int64)

    def per_step(self, key: str, num_frames: int, dtype: type) -> np.ndarray:
        """(T,) of rewards or ends between T+1 frames; zeros if the file has none."""
        if key not in self:
            return np.zeros(num_frames - 1, dtype)
        array = self.array(key)
        kinds = "b" if dtype is bool else "fiub"
        if array.ndim != 1 or array.dtype.kind not in kinds or len(array) not in (num_frames, num_frames - 1):
            wanted = "bool" if dtype is bool else "numbers"
            raise self.fail(key, array, f"({num_frames - 1},) {wanted}, one for each step between {num_frames} frames")
        return self.steps(key, array, num_frames).astype(dtype)

    def steps(self, key: str, array: np.ndarray, num_frames: int) -> np.ndarray:
        """The T rows of an array with T or T+1 rows.

        Files of Dreamer have the key is_first and as many actions as frames, each with the frame it led to.
        """
        drop = self._drop or ("first" if "is_first" in self._arrays else None)
        if len(array) not in (num_frames, num_frames - 1):
            raise self.fail(key, array, f"{num_frames - 1} {key} between {num_frames} frames")
        return steps_of(array, num_frames, drop, f"'{self.path}': {self._keys[key]}")

    def label(self) -> int | str | None:
        """The class: its number or its name; None without a label."""
        if "label" not in self:
            return None
        label = self.array("label")
        if label.ndim or label.dtype.kind not in "iuU" or (label.dtype.kind != "U" and int(label) < 0):
            raise self.fail("label", label, "() of an integer >= 0 or a string")
        return str(label) if label.dtype.kind == "U" else int(label)

    def split(self) -> str | None:
        """The official split; None without one."""
        if "split" not in self:
            return None
        split = self.array("split")
        if split.ndim or split.dtype.kind != "U":
            raise self.fail("split", split, "() of a string")
        return parse_split(str(split), f"'{self.path}'")


@dataclass(frozen=True)
class _Scan:
    """What a file has besides frames: the largest action, () or (A,), and label and split; None for absent ones."""

    actions: np.ndarray | None
    label: int | str | None
    split: str | None


def _scan(path: Path, options: ImportOptions) -> _Scan:
    with NpzFile(path, options.camera, options.drop_action) as file:
        actions = file.actions()
        largest = None if actions is None else np.asarray(actions.max(axis=0))
        return _Scan(largest, file.label(), file.split())


def open_npz(source: Path, options: ImportOptions) -> ImportedDataset:
    """Check a folder of .npz files, one per episode, in the order of their names.

    Keys: `frames`, `image` or `observation`, T+1 frames in any layout of `frames_from_array`; optional `actions` (T,)
    or (T, A), `rewards` (T,), `terminations` and `truncations` (T,) bool, `label` (an integer from 0, or a name),
    `split` ("train", "validation" or "test"); `KEYS` has their other names. The action space is inferred: integers (T,)
    are Discrete, integers (T, A) MultiDiscrete, floats (T, A) an unbounded Box; without actions it is NoAction. Other
    keys, such as those of further cameras, are left out.

    Args:
        source: the folder.
        options: options of the import; `camera` is the key of the frames; `drop_action` for files with as many
            actions as frames.

    Raises:
        UserError: a file is damaged or disagrees with the others; the message names file and key.
    """
    paths = source_files(source, (".npz",), "npz files")
    scans = [_scan(path, options) for path in paths]
    for key, values in (("actions", [scan.actions for scan in scans]), ("split", [scan.split for scan in scans])):
        lacking = [path for path, value in zip(paths, values, strict=True) if value is None]
        if lacking and len(lacking) < len(paths):
            raise UserError(f"'{lacking[0]}' has no {key}, which other files have; wanted {key} in all files or none.")
    names, numbers = _classes([scan.label for scan in scans], paths)
    splits = [None if options.ignore_splits else scan.split for scan in scans]
    with NpzFile(paths[0], options.camera) as first:
        rows, columns = first.frames().shape[1:3]
    space = infer_space([scan.actions for scan in scans], paths, source, options)
    header = imported_header("npz", options, (rows, columns), space, names, splits)

    def episodes() -> Iterator[Episode]:
        for index, path in enumerate(paths):
            with NpzFile(path, options.camera, options.drop_action) as file:
                yield _episode(file, index, header.pixels, options, numbers[index], splits[index])

    return ImportedDataset(header, episodes)


def _classes(labels: list[int | str | None], paths: list[Path]) -> tuple[list[str], list[int | None]]:
    """The names of the classes, and the class number of each episode."""
    names = sorted({label for label in labels if isinstance(label, str)})
    if not names:
        numbers = [label for label in labels if isinstance(label, int)]
        return [str(i) for i in range(max(numbers, default=-1) + 1)], [*labels]  # type: ignore[list-item]
    for label, path in zip(labels, paths, strict=True):
        if isinstance(label, int):
            raise UserError(f"'{path}': label is the number {label}, other files have names; wanted a name.")
    return names, [None if label is None else names.index(str(label)) for label in labels]


def _episode(
    file: NpzFile, index: int, pixels: PixelSpec, options: ImportOptions, label: int | None, split: str | None
) -> Episode:
    """The episode of one file."""
    frames = file.frames()
    if options.size is not None:
        frames = fit_frames(frames, options.size, options.fit or "stretch")
    elif frames.shape[1:] != pixels.frame_shape:
        wanted = f"frames of {pixels.frame_shape} as in the first file; give a size to resize all (--size)"
        raise file.fail("frames", frames, wanted)
    actions = file.actions()
    return imported_episode(
        frames,
        index,
        f"'{file.path}'",
        actions=None if actions is None else file.steps("actions", actions, len(frames)),
        rewards=file.per_step("rewards", len(frames), np.float32),
        terminations=file.per_step("terminations", len(frames), bool),
        truncations=file.per_step("truncations", len(frames), bool),
        label=label,
        split=split,
    )
