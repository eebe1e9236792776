"""Dreams that begin at recorded time steps of a dataset, and more often shortly before an end.

Shapes: S starts, n rows to reset, W frames of context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldmodel.common.errors import UserError
from worldmodel.data import Dataset
from worldmodel.prior.context import Context
from worldmodel.prior.sampling import STREAM_START, uniforms
from worldmodel.prior.status_bins import status_bins
from worldmodel.world.world_model import WorldModel

LEAD_STEPS = 16  # a start before an end is 1 to so many steps before it
ENCODED_ROWS = 64  # contexts encoded at once


@dataclass(frozen=True)
class RecordedStarts:
    """Contexts of recorded time steps.

    Attributes:
        anywhere: S contexts of time steps sampled uniformly.
        before_end: contexts of time steps 1 to `LEAD_STEPS` steps before a termination or a loss, a step in which the
            hidden variable of the world falls to a lower bin; None where they are not used.
    """

    anywhere: Context
    before_end: Context | None

    def sample(self, seeds: Tensor, episodes: Tensor, share: float) -> Context:
        """A context for each row, a function of its seed and episode number.

        Args:
            seeds, episodes: (n,) int64.
            share: of contexts from `before_end`.
        """
        numbers = uniforms(seeds, episodes, torch.zeros_like(seeds), 2, STREAM_START)  # (n, 2)
        context = self.anywhere.select((numbers[:, 1] * self.anywhere.num_rows).long())
        near = torch.nonzero(numbers[:, 0] < share)[:, 0]
        if self.before_end is None or not len(near):
            return context
        return context.scatter(near, self.before_end.select((numbers[near, 1] * self.before_end.num_rows).long()))


def recorded_starts(
    world: WorldModel,
    files: str | Path | Sequence[str | Path],
    before_end: bool,
    num_starts: int = 1024,
    seed: int = 0,
    split: str = "train",
) -> RecordedStarts:
    """Encode time steps of a split of a dataset as contexts of a world.

    Args:
        world: the world that dreams.
        files: dataset files of its environment.
        before_end: also take time steps before ends.
        num_starts: of each kind; fewer time steps anywhere if the split has fewer.
        seed: of the choice of time steps.
        split: "train", "validation" or "test".

    Raises:
        UserError: other frames or actions than the world's, no episode of the split, or no end to begin before.
    """
    with Dataset.open_cropped(files, world.spec.pixels) as data:
        header, spec = data.header, world.spec
        if header.pixels != spec.pixels or header.action_space != spec.action_space:
            raise UserError(
                f"starts_from: {data.name} has frames of {header.pixels.to_json()} and actions {header.action_space}, "
                f"the world frames of {spec.pixels.to_json()} and actions {spec.action_space}; give recordings of the "
                "world's environment."
            )
        rng = np.random.default_rng(seed)
        episodes = data.episodes_of(split)
        if not len(episodes):
            raise UserError(f"starts_from: {data.name} has no {split} episode: {data.missing_splits}")
        lengths = data.lengths[episodes]
        ends = np.cumsum(lengths)
        picked = rng.integers(ends[-1], size=min(num_starts, int(ends[-1])))
        rows = np.searchsorted(ends, picked, side="right")
        anywhere = _contexts(world, data, episodes[rows], picked - (ends - lengths)[rows])
        return RecordedStarts(anywhere, _before_ends(world, data, split, num_starts, rng) if before_end else None)


def _before_ends(world: WorldModel, data: Dataset, split: str, num_starts: int, rng: np.random.Generator) -> Context:
    """Contexts of time steps before ends, sampled with replacement."""
    events: list[tuple[int, int]] = []  # episode, and the frame before the step that brings the end
    status = world.prior.status_config
    for number in data.episodes_of(split).tolist():
        length = int(data.lengths[number])
        steps = slice(int(data.step_offsets[number]), int(data.step_offsets[number]) + length)
        found = data.flat("terminations")[steps].copy()
        if status.variable and status.variable in data.header.variables:
            first = int(data.frame_offsets[number])
            values = data.flat(f"variables/{status.variable}")[first : first + length + 1]
            valid = data.flat("frame_valid")[first : first + length + 1]
            bins = status_bins(status, values)
            found |= (bins[1:] < bins[:-1]) & valid[1:]
        events += [(number, int(frame)) for frame in np.flatnonzero(found)]
    if not events:
        raise UserError(
            f"start_before_end: no {split} episode of {data.name} terminates or loses of the world's hidden variable; "
            "leave it out."
        )
    chosen = np.asarray(events)[rng.integers(len(events), size=num_starts)]
    frames = np.maximum(0, chosen[:, 1] + 1 - rng.integers(1, LEAD_STEPS + 1, num_starts))
    return _contexts(world, data, chosen[:, 0], frames)


def _contexts(world: WorldModel, data: Dataset, episodes: np.ndarray, frames: np.ndarray) -> Context:
    """The contexts that end with given frames, S rows in an order of their own."""
    first = np.maximum(0, frames - world.context_frames + 1)
    parts = []
    for length in np.unique(frames - first + 1).tolist():
        rows = np.flatnonzero(frames - first + 1 == length)
        for chunk in np.array_split(rows, -(-len(rows) // ENCODED_ROWS)):
            parts.append(_encoded(world, data, episodes[chunk], first[chunk], length))
    return Context(**{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})


def _encoded(world: WorldModel, data: Dataset, episodes: np.ndarray, first: np.ndarray, length: int) -> Context:
    """Contexts of as many frames each, (n, length)."""
    at = (data.frame_offsets[episodes] + first)[:, None] + np.arange(length)
    steps = (data.step_offsets[episodes] + first)[:, None] + np.arange(length - 1)
    clips = zip(episodes.tolist(), first.tolist(), strict=True)
    status = world.prior.status_config
    known = status.variable in data.header.variables if status.variable else False
    values = data.flat(f"variables/{status.variable}")[at[:, -1]] if known else None
    return world.context(
        torch.from_numpy(np.stack([data.frames(number, begin, begin + length) for number, begin in clips])),
        torch.from_numpy(data.flat("actions")[steps]),
        torch.from_numpy(data.flat("frame_valid")[at]),
        None if values is None else torch.from_numpy(status_bins(status, values)),
    )
