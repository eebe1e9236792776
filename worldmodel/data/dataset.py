"""Reading one or several sealed files as one dataset.

Shapes: N episodes, F frames and S steps of all episodes; T steps of one episode.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldmodel.common.errors import UserError, unknown_name
from worldmodel.common.files import expand_path
from worldmodel.common.pixels import Crop, PixelSpec
from worldmodel.data.episode import Episode
from worldmodel.data.episode_table import EpisodeTable
from worldmodel.data.header_union import combine
from worldmodel.data.layout import NO_LABEL, array_layout
from worldmodel.data.sources import Source, check_no_duplicates, open_sources
from worldmodel.data.splits import GIVEN

if TYPE_CHECKING:
    from worldmodel.data.clips import Batch

CACHES = ("memmap", "ram")


class Dataset(EpisodeTable):
    """Recorded episodes, read from one or several sealed or merged files.

    Opening reads only the metadata. Episodes are numbered 0 .. N-1 in the order of the files. The first time that
    frames, a clip or an episode is read, the CRC of the whole episode and its actions are checked. A dataset can be
    pickled (loading opens the files again) and used in a `with` block.

    Args:
        path: a file, or a list of files of the same environment.
        cache: "memmap" maps the files, so that the operating system caches what is read; "ram" reads each array
            into memory at its first use.
        crop: (top, bottom, left, right) of the part of the recorded frames that is kept, in their pixels; None
            keeps all. The header has this crop, as if the frames had been recorded with it.

    Attributes:
        lengths, labels, splits, policies ...: the columns of `EpisodeTable`, one value for each episode.
        paths: paths of the sealed files; a merged file is replaced by its sources.
        header: the common header; it has the policies of all files and the seed of the first.
        headers: the header of each file.
        fingerprint: hexadecimal hash of all headers and tables of episodes, which have the CRC of each episode.

    Raises:
        UserError: a file is missing, damaged, of another format or of a newer version; files of different
            environments; or an episode is in two files.
    """

    def __init__(
        self, path: str | Path | Sequence[str | Path], cache: str = "memmap", crop: Crop | None = None
    ) -> None:
        if cache not in CACHES:
            raise unknown_name("cache", cache, CACHES)
        paths = [path] if isinstance(path, str | Path) else list(path)
        if not paths:
            raise UserError("no file to read; wanted the path of at least one sealed dataset.")
        self.cache = cache
        self._arguments = [Path(os.path.abspath(expand_path(p))) for p in paths]
        self._closed = False
        self._sources = [source for p in paths for source in open_sources(expand_path(p), cache)]
        self.paths = [source.path for source in self._sources]
        self.headers = [source.header for source in self._sources]
        header, policy_maps = combine(self.headers, [str(p) for p in self.paths])
        check_no_duplicates(self._sources)
        self.crop = crop
        if crop is not None:
            header = replace(header, pixels=header.pixels.cropped(crop))
        super().__init__(header, self._sources, policy_maps)
        self._checked = np.zeros(self.num_episodes, bool)
        self._arrays: dict[str, np.ndarray] = {}
        self._actions_checked = False
        self.fingerprint = self._fingerprint()

    @classmethod
    def open_cropped(cls, path: str | Path | Sequence[str | Path], pixels: PixelSpec) -> Dataset:
        """Open files with the crop that gives frames of `pixels`, if these are a part of the recorded frames.

        Otherwise the files are opened without a crop; the caller compares `header.pixels`.

        Args:
            path: as for `Dataset`.
            pixels: the wanted frames.
        """
        data = cls(path)
        crop = data.header.pixels.crop_to(pixels)
        return data if crop is None else cls(path, crop=crop)

    def _fingerprint(self) -> str:
        hashes = [source.fingerprint for source in self._sources]
        if self.crop is not None:
            hashes.append(f"crop {self.crop}")
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()

    def __repr__(self) -> str:
        return (
            f"Dataset({self.header.env}: {self.num_episodes} episodes, {self.num_steps} steps, "
            f"{len(self.paths)} file(s))"
        )

    @property
    def name(self) -> str:
        """The name in messages: the path, or the first path and the number of others."""
        more = f"' and {len(self.paths) - 1} more" if len(self.paths) > 1 else "'"
        return f"'{self.paths[0]}{more}"

    def frames_of_source(self, number: int) -> np.ndarray:
        """All frames of one file, (F_i, H, W, 3) uint8, read-only, without a check of the CRCs."""
        frames = self._source(number).array("frames")
        if self.crop is None:
            return frames
        top, bottom, left, right = self.crop
        return frames[:, top:bottom, left:right]

    def _source(self, number: int) -> Source:
        if self._closed:
            raise UserError(f"the dataset {self.name} is closed; open it again to read from it.")
        return self._sources[number]

    def flat(self, name: str) -> np.ndarray:
        """One array of all episodes, concatenated, read-only; see `frame_offsets` and `step_offsets`.

        Args:
            name: "frame_valid" or "variables/<name>", (F,); "actions", (S,) or (S, A); "rewards", "terminations"
                or "truncations", (S,). Arrays of several files are concatenated in memory; for frames see
                `frames_of_source`.

        Actions are checked against the action space; for a check of the CRCs call `check_episodes`.

        Raises:
            UserError: an unknown array, or an action outside the action space.
        """
        array = self.unchecked_array(name)
        if name == "actions" and not self._actions_checked:
            for number in range(len(self._sources)):
                self._source(number).check_all_actions()
            self._actions_checked = True
        return array

    def unchecked_array(self, name: str) -> np.ndarray:
        """`flat` without the check of the actions: for episodes that `check_episodes` has checked."""
        if name not in self._arrays:
            names = [row[0] for row in array_layout(self.header) if row[0] != "frames"]
            if name not in names:
                raise unknown_name("array", name, names)
            arrays = [self._source(i).array(name) for i in range(len(self._sources))]
            self._arrays[name] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        return self._arrays[name]

    def check_episodes(self, numbers: np.ndarray | Sequence[int]) -> None:
        """Check CRC and actions of episodes, each of them once per dataset object.

        The first check of an episode reads all of it (about 1.4 GB/s); later calls cost one lookup.

        Args:
            numbers: (n,) episode numbers, 0 .. N-1, in any order.

        Raises:
            UserError: an episode is damaged; the message names file and episode.
        """
        checked = self._checked[numbers]
        if checked.all():
            return
        for number in np.unique(np.asarray(numbers)[~checked]).tolist():
            source = int(self.source_numbers[number])
            self._source(source).check_episode(number - int(np.searchsorted(self.source_numbers, source)))
            self._checked[number] = True

    def frames(self, number: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Frames `start` to `stop` - 1 (default: all) of an episode, a new (n, H, W, 3) uint8 array.

        Raises:
            UserError: there is no such episode, or it is damaged.
        """
        number = self._check_number(number)
        self.check_episodes([number])
        source = int(self.source_numbers[number])
        first = number - int(np.searchsorted(self.source_numbers, source))
        begin = int(self._source(source).table["frame_offset"][first])
        chosen = range(int(self.lengths[number]) + 1)[start:stop]
        return self.frames_of_source(source)[begin + chosen.start : begin + chosen.stop].copy()

    def _check_number(self, number: int) -> int:
        if not -self.num_episodes <= number < self.num_episodes:
            raise UserError(
                f"episode {number} does not exist: {self.name} has {self.num_episodes}, "
                f"numbered 0 to {self.num_episodes - 1}."
            )
        return number % self.num_episodes

    def episode(self, number: int) -> Episode:
        """One episode, with new arrays; negative numbers count from the end.

        Raises:
            UserError: there is no such episode, or it is damaged.
        """
        number = self._check_number(number)
        self.check_episodes([number])
        length, label = int(self.lengths[number]), int(self.labels[number])
        arrays: dict[str, Any] = {}
        variables: dict[str, np.ndarray] = {}
        for name, _, _, per_frame in array_layout(self.header):
            if name == "frames":
                continue
            offsets = self.frame_offsets if per_frame else self.step_offsets
            begin = int(offsets[number])
            values = self.unchecked_array(name)[begin : begin + length + per_frame].copy()
            if name.startswith("variables/"):
                variables[name.removeprefix("variables/")] = values
            else:
                arrays[name] = values
        return Episode(
            frames=self.frames(number),
            **arrays,
            variables=variables,
            index=int(self.indices[number]),
            seed=int(self.seeds[number]),
            policy=str(self.policies[number]),
            label=None if label == NO_LABEL else label,
            split=str(self.splits[number]) if self.header.split_rule == GIVEN else None,
        )

    def episodes_iter(self, split: str | None = None) -> Iterator[Episode]:
        """Episodes of a split (None: all), in order."""
        for number in self.episodes_of(split):
            yield self.episode(int(number))

    def clips(
        self,
        *,
        length: int,
        batch_size: int,
        split: str | None = "train",
        seed: int = 0,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[Batch[np.ndarray]]:
        """An endless iterator over batches of shuffled clips; see `worldmodel.data.ClipSampler`.

        Args:
            length: L, frames per clip.
            batch_size: clips per step, of all ranks together.
            split: "train", "validation", "test", or None for all episodes.
            seed: seed of the order.
            start_step: the first step; a resumed training gets the same batches as an uninterrupted one.
            rank, world_size: rank of this process and number of processes.

        Yields:
            A `Batch` of arrays that the caller owns.
        """
        from worldmodel.data.clips import ClipSampler

        sampler = ClipSampler(self, length, batch_size, split, seed, rank, world_size)

        def batches() -> Iterator[Batch[np.ndarray]]:
            step = start_step
            while True:
                yield sampler.batch(step)
                step += 1

        return batches()  # the sampler is made first, so that errors are raised here and not at the first batch

    def close(self) -> None:
        """Close the files."""
        self._closed = True
        self._arrays.clear()
        for source in self._sources:
            source.close()

    def __enter__(self) -> Dataset:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self._arguments, "cache": self.cache, "crop": self.crop, "fingerprint": self.fingerprint}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["paths"], state["cache"], state["crop"])  # type: ignore[misc]
        if self.fingerprint != state["fingerprint"]:
            raise UserError(f"{self.name} has changed since this dataset was opened. Open it again.")
