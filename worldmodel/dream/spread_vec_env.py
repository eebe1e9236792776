"""One VecEnv over the dreams of several worlds of one environment: no policy fits the errors of all of them.

Shapes: N rows of all worlds together.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from worldmodel.common.arguments import checked_integer
from worldmodel.common.errors import UserError
from worldmodel.dream.batch_vec_env import BatchVecEnv
from worldmodel.dream.held_dreams import HeldDreams
from worldmodel.dream.learner_options import LearnerKeywords, LearnerOptions
from worldmodel.world.world_model import WorldModel


class SpreadDreams(BatchVecEnv):
    """Consecutive rows of one world, then of the next; their numbers differ by at most one.

    Attributes:
        parts: the dreams of each world.
        world, view: of the first world.
        horizon: of the world with the longest dreams; None if one of them never truncates.

    Args:
        worlds: directories, names or loaded worlds.
        num_envs: N, at least one for each world.
        **options: the fields of `LearnerOptions`. Row i begins with the seed `seed` + i.

    Raises:
        UserError: fewer rows than worlds, worlds of other frames or actions, or an option out of range.
    """

    def __init__(
        self, worlds: Sequence[str | Path | WorldModel], num_envs: int, **options: Unpack[LearnerKeywords]
    ) -> None:
        num_envs, count = checked_integer("num_envs", num_envs), len(worlds)
        if num_envs < count:
            raise UserError(f"num_envs={num_envs}: wanted at least one for each of the {count} worlds.")
        borders = [num_envs * i // count for i in range(count + 1)]
        self.slices = [slice(first, end) for first, end in pairwise(borders)]
        seed, checked = options.get("seed", 0), LearnerOptions.from_keywords(**options)
        loaded = [checked.load(world) for world in worlds]
        self.parts: list[HeldDreams] = []
        for i, rows in enumerate(self.slices):
            part_options: LearnerKeywords = {**options, "seed": seed + rows.start}
            second = loaded[(i + 1) % count] if count > 1 else None
            self.parts.append(HeldDreams(loaded[i], rows.stop - rows.start, second, **part_options))
        first = self.parts[0]
        for world, part in zip(worlds, self.parts, strict=True):
            same = part.observation_space == first.observation_space and part.action_space == first.action_space
            if not same or part.world.spec.env != first.world.spec.env:
                raise UserError(
                    f"the worlds {worlds[0]} and {world} differ: {first.world.spec.env} with observations "
                    f"{first.observation_space.shape} and actions {first.action_space}, {part.world.spec.env} with "
                    f"{part.observation_space.shape} and {part.action_space}; give worlds of one environment."
                )
        self.world, self.view = first.world, first.view
        horizons = [part.horizon for part in self.parts]
        self.horizon = None if None in horizons else max(h for h in horizons if h is not None)
        super().__init__(self, num_envs, first.observation_space, first.action_space)

    @property
    def worlds(self) -> list[WorldModel]:
        """The worlds."""
        return [part.world for part in self.parts]

    def reset(self) -> np.ndarray:
        """Begin a dream in every row: (N, h, w, channels) uint8."""
        for part, rows in zip(self.parts, self.slices, strict=True):
            part._seeds = self._seeds[rows]
        observations = np.concatenate([part.reset() for part in self.parts])
        self._reset_seeds()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions, (N,) or (N, A), for `step_wait`."""
        for part, rows in zip(self.parts, self.slices, strict=True):
            part.step_async(actions[rows])

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """As `HeldDreams.step_wait`, the rows of all worlds."""
        observations, rewards, dones, infos = zip(*(part.step_wait() for part in self.parts), strict=True)
        joined = (np.concatenate(arrays) for arrays in (observations, rewards, dones))
        return *joined, [info for part in infos for info in part]  # type: ignore[return-value]

    def close(self) -> None:
        """There is nothing to close."""

    def get_images(self) -> list[np.ndarray | None]:
        """The dreams' whole frames, (H, W, 3) uint8 each."""
        return [image for part in self.parts for image in part.get_images()]
