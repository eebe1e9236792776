"""The columns of a dataset: what is known of each episode without reading its arrays.

Shapes: N episodes, F frames and S steps of all episodes; T steps of one episode.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldmodel.common.errors import unknown_name
from worldmodel.data.header import Header
from worldmodel.data.sources import Source
from worldmodel.data.splits import SPLITS, missing_splits, split_counts


class EpisodeTable:
    """The episodes of several files, numbered 0 .. N-1 in the order of the files.

    Args:
        header: the common header of the files.
        sources: the open files.
        policy_maps: for each file an array that maps its policy numbers to those of `header`.

    Attributes:
        header: the common header.
        lengths: (N,) int64, T of each episode.
        frame_offsets, step_offsets: (N,) int64, the first of an episode's frames and steps among all F and S.
        indices, seeds: (N,) int64, index in the recording and environment seed of each episode.
        crcs: (N,) uint32, CRC-32 of each episode.
        labels: (N,) int64, class of each episode, an index of `class_names`; -1 for no label.
        split_numbers: (N,) uint8, position in `SPLITS`.
        splits: (N,) str, "train", "validation" or "test".
        policy_numbers: (N,) int64, position in `header.policies`.
        policies: (N,) str, the policy name of each episode.
        source_numbers: (N,) int64, the number of each episode's file.
    """

    def __init__(self, header: Header, sources: Sequence[Source], policy_maps: Sequence[np.ndarray]) -> None:
        def column(name: str) -> np.ndarray:
            return np.concatenate([source.table[name] for source in sources])

        self.header = header
        self.lengths = column("length")
        self.frame_offsets = np.cumsum(self.lengths + 1) - (self.lengths + 1)
        self.step_offsets = np.cumsum(self.lengths) - self.lengths
        self.indices, self.seeds, self.crcs, self.labels = (column(n) for n in ("index", "seed", "crc", "label"))
        self.split_numbers = column("split")
        self.policy_numbers = np.concatenate(
            [numbers[source.table["policy"]] for numbers, source in zip(policy_maps, sources, strict=True)]
        )
        self.splits = np.asarray(SPLITS)[self.split_numbers]
        self.policies = np.asarray(header.policy_names)[self.policy_numbers]
        counts = [len(source.table["length"]) for source in sources]
        self.source_numbers = np.repeat(np.arange(len(counts)), counts)

    def __len__(self) -> int:
        """Number of episodes."""
        return self.num_episodes

    @property
    def num_episodes(self) -> int:
        """N."""
        return len(self.lengths)

    @property
    def num_frames(self) -> int:
        """F, the number of frames of all episodes."""
        return int((self.lengths + 1).sum())

    @property
    def num_steps(self) -> int:
        """S, the number of steps of all episodes."""
        return int(self.lengths.sum())

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class; empty if the dataset has no labels."""
        return self.header.class_names

    @property
    def label_counts(self) -> dict[str, int]:
        """The number of episodes of each class."""
        return {name: int((self.labels == i).sum()) for i, name in enumerate(self.class_names)}

    @property
    def split_counts(self) -> dict[str, int]:
        """The number of episodes of each split."""
        return split_counts(self.split_numbers)

    @property
    def missing_splits(self) -> str | None:
        """A sentence that names the splits without episodes; None if there are none."""
        return missing_splits(self.split_numbers, self.header.split_rule)

    def episodes_of(self, split: str | None) -> np.ndarray:
        """Numbers of the episodes of a split (None: of all), ascending, int64.

        Raises:
            UserError: an unknown split.
        """
        if split is None:
            return np.arange(self.num_episodes)
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        return np.flatnonzero(self.split_numbers == SPLITS.index(split))
