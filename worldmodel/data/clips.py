"""Shuffled clips: which ones a step shows is a pure function of (seed, step).

Shapes: B clips of a rank, L frames and L-1 steps a clip, A numbers an action, H x W pixels.
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
    """Clips of L frames and the L-1 steps between them; numpy arrays, or tensors after `torch()`.

    Attributes:
        frames: (B, L, H, W, 3) uint8.
        frame_valid: (B, L) bool.
        actions: (B, L-1) int64, (B, L-1, A) int64 or float32; `actions[:, t]` leads to `frames[:, t+1]`.
        rewards: (B, L-1) float32.
        terminations, truncations: (B, L-1) bool.
        variables: name -> (B, L) float32.
        episode: (B,) int64, the episode's number in the dataset.
        start: (B,) int64, the episode's frame that the clip begins with.
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

    def torch(self, device: str | torch.device = "cpu") -> Batch[torch.Tensor]:
        """The same batch as tensors on a device; on the CPU they share the arrays' memory.

        Args:
            device: where to; the copy to another device is finished when this returns.
        """
        import torch

        def move(array: Any) -> torch.Tensor:
            tensor = array if isinstance(array, torch.Tensor) else torch.from_numpy(array)
            return tensor.to(device)

        values = {name: move(getattr(self, name)) for name in self.__dataclass_fields__ if name != "variables"}
        variables = {name: move(array) for name, array in self.variables.items()}
        return Batch(**values, variables=variables)


class ClipSampler:
    """Which clips are shown when, and their arrays.

    Every start from which L frames fit into one episode is legal, the first of an episode of exactly L frames
    too. Each epoch goes through all of them once, in an order that depends on seed and epoch alone; steps run
    on over the ends of epochs. The order is computed place by place: any step costs the same.

    Args:
        dataset: what to read.
        length: L >= 2 frames.
        batch_size: clips of a step, of all ranks together.
        split: "train", "validation", "test", or None for all episodes.
        seed: of the order, 0 .. 2**63 - 1.
        rank: this process, of `world_size`; it gets rows rank * b .. (rank + 1) * b of the step's
            batch, b = batch_size / world_size.
        world_size: number of processes.

    Attributes:
        num_clips: legal starts, the clips of an epoch.

    Raises:
        UserError: no episode is long enough or in the split, or batch_size is not a multiple of world_size.
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
            raise UserError(f"clip_length={length}; wanted at least 2 frames, which hold one action.")
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}; wanted at least 1.")
        if not 0 <= rank < world_size:
            raise UserError(f"rank={rank} of world_size={world_size}; wanted 0 <= rank < world_size.")
        if batch_size % world_size:
            raise UserError(
                f"batch_size={batch_size} cannot be shared by {world_size} processes; it is the number of "
                f"clips of all of them. Use {batch_size // world_size * world_size or world_size} or "
                f"{(batch_size // world_size + 1) * world_size}."
            )
        if not 0 <= seed <= MAX_SEED:
            raise UserError(f"seed={seed}; wanted 0 .. 2**63 - 1.")
        self.dataset, self.length, self.batch_size, self.split = dataset, length, batch_size, split
        self.seed, self.rank, self.world_size = seed, rank, world_size
        episodes = dataset.episodes_of(split)
        if not episodes.size:
            raise UserError(f"the {split} split of {dataset.name} is empty: {dataset.lacking_splits}")
        starts = dataset.lengths[episodes] + 2 - length  # legal starts of each
        if starts.max() < 1:
            longest = int(dataset.lengths[episodes].max()) + 1
            where = dataset.name if split is None else f"the {split} split of {dataset.name}"
            raise UserError(
                f"clip_length={length} needs {length} frames, but the longest episode in {where} has "
                f"{longest}. Collect longer episodes or pass --clip-length {longest}."
            )
        self._episodes = episodes[starts > 0]
        self._ends = np.cumsum(starts[starts > 0])
        self.num_clips = int(self._ends[-1])
        first = np.searchsorted(dataset.source_numbers, dataset.source_numbers)  # first episode of its file
        self._file_offsets = dataset.frame_offsets - dataset.frame_offsets[first]
        self._pool = BufferPool()

    @property
    def rank_batch_size(self) -> int:
        """B, the clips that this rank gets of each step."""
        return self.batch_size // self.world_size

    def locate(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Which clips this rank is shown at a step, without reading them.

        Args:
            step: >= 0.

        Returns:
            The clips' episodes and first frames, (B,) int64 each.

        Raises:
            UserError: step is negative.
        """
        if step < 0:
            raise UserError(f"step={step}; wanted 0 or more.")
        size = self.rank_batch_size
        epoch, position = divmod(step * self.batch_size + self.rank * size, self.num_clips)
        places = position + np.arange(size)
        epochs = epoch + places // self.num_clips
        clips = permute(places % self.num_clips, self.num_clips, self.seed, epochs)
        return self._clip(clips)

    def _clip(self, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Episode and start of the clips of these numbers, counted through the split in order."""
        row = np.searchsorted(self._ends, clips, side="right")
        before = np.where(row > 0, self._ends[row - 1], 0)
        return self._episodes[row], clips - before

    def batch(self, step: int) -> Batch[np.ndarray]:
        """The clips that this rank is shown at a step.

        Args:
            step: >= 0.

        Returns:
            A batch of arrays that nothing else writes to.

        Raises:
            UserError: step is negative, or the dataset is closed.
        """
        return self.gather(*self.locate(step))

    def gather(self, episode: np.ndarray, start: np.ndarray) -> Batch[np.ndarray]:
        """Read any clips of the dataset.

        Args:
            episode: (B,) int64, episodes' numbers in the dataset.
            start: (B,) int64, the frame each clip begins with; `length` frames must fit.

        Raises:
            UserError: a clip does not lie inside its episode, or the dataset is closed.
        """
        data, length = self.dataset, self.length
        bad = (episode < 0) | (episode >= data.num_episodes) | (start < 0)
        bad |= start + length > data.lengths[np.clip(episode, 0, data.num_episodes - 1)] + 1
        if bad.any():
            i = int(np.flatnonzero(bad)[0])
            raise UserError(
                f"a clip of {length} frames from frame {start[i]} does not lie inside episode {episode[i]} "
                f"of {data.name}."
            )
        frames = self._frames(episode, start)
        frame_rows = (data.frame_offsets[episode] + start)[:, None] + np.arange(length)  # (B, L)
        step_rows = (data.step_offsets[episode] + start)[:, None] + np.arange(length - 1)  # (B, L-1)
        return Batch(
            frames=frames,
            frame_valid=data.flat("frame_valid")[frame_rows],
            actions=data.flat("actions")[step_rows],
            rewards=data.flat("rewards")[step_rows],
            terminations=data.flat("terminations")[step_rows],
            truncations=data.flat("truncations")[step_rows],
            variables={n: data.flat(f"variables/{n}")[frame_rows] for n in data.header.variables},
            episode=episode.astype(np.int64),
            start=start.astype(np.int64),
        )

    def _frames(self, episode: np.ndarray, start: np.ndarray) -> np.ndarray:
        """(B, L, H, W, 3): each clip is one slice of one file, copied as a block."""
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

        for i, (file, row) in enumerate(rows):  # a second thread gains nothing: the copy is memory bound
            np.copyto(out[i], files[file][row : row + length])
        return out

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pool": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _pool=BufferPool())
