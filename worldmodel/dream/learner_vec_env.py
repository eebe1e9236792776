"""Many dreams as a learning policy observes them, for Stable-Baselines3.

Shapes: N rows, h w of the visible part, D frames in a stack, P planes of the last action.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import numpy as np

from worldmodel.common.channels_first import VecChannelsFirst
from worldmodel.dream.held_dreams import HeldDreams, policy_view
from worldmodel.dream.learner_options import LearnerKeywords, LearnerOptions
from worldmodel.dream.spread_vec_env import SpreadDreams
from worldmodel.prior.context import Context
from worldmodel.world.world_model import WorldModel

__all__ = ["DreamLearnerEnv", "LearnerKeywords", "LearnerOptions", "policy_view"]


class DreamLearnerEnv(VecChannelsFirst):
    """An SB3 VecEnv in which one step is `hold` steps of every dream; as `collect.learner_view` over an environment.

    Observations are (N, 3*D+P, h, w) uint8, with the channels first so that SB3 cannot take rows for channels; P planes
    hold the last action if `last_action` asks for them. A row that
    ends while its action is held waits until the others have taken their steps, and is then reset. infos of a finished
    row have `terminal_observation`, `TimeLimit.truncated` and `episode` (the dream's return and number of steps).

    Args:
        world: a world directory, the name of a shipped world, or a loaded `WorldModel`; or a sequence of them, whose
            dreams share the rows (`dream.spread_vec_env`).
        num_envs: N.
        **options: the fields of `LearnerOptions`.

    Raises:
        UserError: a view outside the world's frame, reward="status" of a world without a hidden variable, or an option
            that is unknown or out of range.
    """

    def __init__(
        self,
        world: str | Path | WorldModel | Sequence[str | Path | WorldModel],
        num_envs: int,
        **options: Unpack[LearnerKeywords],
    ) -> None:
        if isinstance(world, str | Path | WorldModel):
            super().__init__(HeldDreams(world, num_envs, **options))
        else:
            super().__init__(SpreadDreams(list(world), num_envs, **options))

    def reset_with_seeds(self, seeds: np.ndarray) -> np.ndarray:
        """Begin the first dream of a seed in every row; dreams of one world only.

        Rows of the same seed begin alike and share their random numbers: their frames differ by their actions alone.

        Args:
            seeds: (N,) int64.

        Returns:
            (N, 3*D+P, h, w) uint8.
        """
        observations = self.venv.reset_with_seeds(seeds)  # type: ignore[attr-defined]
        return np.asarray(self.transpose_observations(observations))

    def reset_after(self, context: Context, seeds: np.ndarray) -> np.ndarray:
        """Begin a dream of one world after each of N contexts, see `WorldModel.context`.

        Args:
            context: N rows.
            seeds: (N,) int64; rows of the same context and seed are alike until their actions differ.

        Returns:
            (N, 3*D+P, h, w) uint8.
        """
        observations = self.venv.reset_after(context, seeds)  # type: ignore[attr-defined]
        return np.asarray(self.transpose_observations(observations))
