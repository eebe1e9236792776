"""Shuffled clips: the clips of a training step are a function of (seed, step).

Shapes: B clips per rank, L frames and L-1 steps per clip, A numbers per action, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from worldmodel.common.errors import UserError
from worldmodel.data.buffers import BufferPool
from worldmodel.data.episode import MAX_SEED
from worldmodel.data.shuffle import permute

if TYPE_CHECKING:
    import torch

    from worldmodel.data.dataset import Dataset

Array = TypeVar("Array")


@dataclass(frozen=True, eq=False)
class Batch(Generic[Array]):
    """Clips of L frames and the L-1 steps between them, as numpy arrays, or as tensors after `torch()`.

    Attributes:
        frames: (B, L, H, W, 3) uint8.
        frame_valid: (B, L) bool.
        actions: (B, L-1) int64, (B, L-1, A) int64 or float32; `actions[:, t]` takes `frames[:, t]` to `frames[:, t+1]`.
        rewards: (B, L-1) float32.
        terminations, truncations: (B, L-1) bool.
        variables: name -> (B, L) float32.
        episode: (B,) int64, the number of the episode in the dataset.
        start: (B,) int64, the first frame of the clip within its episode.
        labels: (B,) int64, the class of the episode, an index of `Dataset.class_names`; -1 for no label.
    """

    frames: Array
    frame_valid: Array
    actions: Array
    rewards: Array
    terminations: Array
    truncations: Array
    variables: Mapping[str, Array]
    episode: Array
    start: Array
    labels: Array

    def torch(self, device: str | torch.device = "cpu") -> Batch[torch.Tensor]:
        """The same batch as tensors; on the CPU they share the memory of the arrays.

        Args:
            device: the target device; the copy is complete when this returns.
        """
        import torch

        def move(array: Any) -> torch.Tensor:
            tensor = array if isinstance(array, torch.Tensor) else torch.from_numpy(array)
            return tensor.to(device)

        values = {name: move(getattr(self, name)) for name in self.__dataclass_fields__ if name != "variables"}
        variables = {name: move(array) for name, array in self.variables.items()}
        return Batch(**values, variables=variables)


class ClipSampler:
    """Samples shuffled clips from a dataset.

    A start is valid if L frames from there are in one episode; an episode of exactly L frames has one. Each epoch
    visits every valid start once, in an order that depends on seed and epoch only. A batch may span two epochs. The
    order is computed element by element (`worldmodel.data.shuffle`), so every step costs the same.

    Args:
        dataset: the dataset.
        length: L >= 2 frames.
        batch_size: clips per step, of all ranks together.
        split: "train", "validation", "test", or None for all episodes.
        seed: seed of the order, 0 .. 2**63 - 1.
        rank: rank of this process; with b = batch_size / world_size it gets rows rank * b .. (rank + 1) * b of
            each batch.
        world_size: number of processes.

    Attributes:
        num_clips: number of valid starts, the clips of an epoch.

    Raises:
        UserError: the split is empty, no episode is long enough, or batch_size is not a multiple of world_size.
    """

    def __init__(
        self,
        dataset: Dataset,
        length: int,
        batch_size: int,
        split: str | None = "train",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if length < 2:
            raise UserError(f"clip_length={length}; wanted at least 2 frames, which have one action between them.")
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}; wanted at least 1.")
        if not 0 <= rank < world_size:
            raise UserError(f"rank={rank} of world_size={world_size}; wanted 0 <= rank < world_size.")
        if batch_size % world_size:
            raise UserError(
                f"batch_size={batch_size} cannot be divided by {world_size} processes; it is the number of "
                f"clips of all processes together. Use {batch_size // world_size * world_size or world_size} or "
                f"{(batch_size // world_size + 1) * world_size}."
            )
        if not 0 <= seed <= MAX_SEED:
            raise UserError(f"seed={seed}; wanted 0 .. 2**63 - 1.")
        self.dataset, self.length, self.batch_size, self.split = dataset, length, batch_size, split
        self.seed, self.rank, self.world_size = seed, rank, world_size
        episodes = dataset.episodes_of(split)
        if not episodes.size:
            raise UserError(f"the {split} split of {dataset.name} is empty: {dataset.missing_splits}")
        starts = dataset.lengths[episodes] + 2 - length  # valid starts of each episode
        if starts.max() < 1:
            longest = int(dataset.lengths[episodes].max()) + 1
            where = dataset.name if split is None else f"the {split} split of {dataset.name}"
            raise UserError(
                f"clip_length={length} needs {length} frames, but the longest episode in {where} has "
                f"{longest}. Collect longer episodes or shorten the clips (of a prior: --train-prior.clip-length "
                f"{longest})."
            )
        self._episodes = episodes[starts > 0]
        self._ends = np.cumsum(starts[starts > 0])
        self.num_clips = int(self._ends[-1])
        first = np.searchsorted(dataset.source_numbers, dataset.source_numbers)  # first episode of its file
        self._file_offsets = dataset.frame_offsets - dataset.frame_offsets[first]
        self._pool = BufferPool()

    @property
    def rank_batch_size(self) -> int:
        """B, the clips of this rank per step."""
        return self.batch_size // self.world_size

    def frame_valid(self, episodes: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Which frames of clips exist, (B, L) bool, without reading the frames: episodes and first frames are (B,)."""
        frames = (self.dataset.frame_offsets[episodes] + starts)[:, None] + np.arange(self.length)
        valid: np.ndarray = self.dataset.flat("frame_valid")[frames]
        return valid

    def locate(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The clips of this rank at a step, without reading them.

        Args:
            step: the training step, >= 0.

        Returns:
            Episode numbers and first frames, (B,) int64 each.

        Raises:
            UserError: step is negative.
        """
        if step < 0:
            raise UserError(f"step={step}; wanted 0 or more.")
        size = self.rank_batch_size
        epoch, position = divmod(step * self.batch_size + self.rank * size, self.num_clips)
        positions = position + np.arange(size)
        epochs = epoch + positions // self.num_clips
        clips = permute(positions % self.num_clips, self.num_clips, self.seed, epochs)
        return self._clip(clips)

    def _clip(self, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Episode and start of clips by their index among all valid starts of the split, in file order."""
        row = np.searchsorted(self._ends, clips, side="right")
        first = np.where(row > 0, self._ends[row - 1], 0)
        return self._episodes[row], clips - first

    def batch(self, step: int) -> Batch[np.ndarray]:
        """Read the clips of this rank at a step.

        Args:
            step: the training step, >= 0.

        Returns:
            A batch of arrays that the caller owns.

        Raises:
            UserError: step is negative, an episode is damaged, or the dataset is closed.
        """
        return self.gather(*self.locate(step))

    def gather(self, episode: np.ndarray, start: np.ndarray) -> Batch[np.ndarray]:
        """Read any clips of the dataset.

        Args:
            episode: (B,) int64, episode numbers in the dataset.
            start: (B,) int64, first frame of each clip; `length` frames from there must be in the episode.

        Raises:
            UserError: a clip is not inside its episode, an episode is damaged, or the dataset is closed.
        """
        data, length = self.dataset, self.length
        bad = (episode < 0) | (episode >= data.num_episodes) | (start < 0)
        bad |= start + length > data.lengths[np.clip(episode, 0, data.num_episodes - 1)] + 1
        if bad.any():
            i = int(np.flatnonzero(bad)[0])
            raise UserError(
                f"a clip of {length} frames from frame {start[i]} is not inside episode {episode[i]} of {data.name}."
            )
        data.check_episodes(episode)
        frames = self._frames(episode, start)
        frame_rows = (data.frame_offsets[episode] + start)[:, None] + np.arange(length)  # (B, L)
        step_rows = (data.step_offsets[episode] + start)[:, None] + np.arange(length - 1)  # (B, L-1)
        return Batch(
            frames=frames,
            frame_valid=data.unchecked_array("frame_valid")[frame_rows],
            actions=data.unchecked_array("actions")[step_rows],
            rewards=data.unchecked_array("rewards")[step_rows],
            terminations=data.unchecked_array("terminations")[step_rows],
            truncations=data.unchecked_array("truncations")[step_rows],
            variables={n: data.unchecked_array(f"variables/{n}")[frame_rows] for n in data.header.variables},
            episode=episode.astype(np.int64),
            start=start.astype(np.int64),
            labels=data.labels[episode],
        )

    def _frames(self, episode: np.ndarray, start: np.ndarray) -> np.ndarray:
        """(B, L, H, W, 3): each clip is one contiguous slice of one file."""
        data, length = self.dataset, self.length
        out = self._pool.take((len(episode), length, *data.header.pixels.frame_shape))
        files = [data.frames_of_source(i) for i in range(len(data.paths))]
        rows = list(
            zip(
                data.source_numbers[episode].tolist(),
                (self._file_offsets[episode] + start).tolist(),
                strict=True,
            )
        )

        for i, (file, row) in enumerate(rows):  # threads do not help: the copy is limited by memory bandwidth
            np.copyto(out[i], files[file][row : row + length])
        return out

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pool": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _pool=BufferPool())
