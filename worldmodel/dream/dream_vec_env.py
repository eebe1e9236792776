"""Many dreams as a Stable-Baselines3 VecEnv.

Shapes: N rows, H W pixels, A action size. Observations are frames, uint8 (N, H, W, 3).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from gymnasium.vector import AutoresetMode

from worldmodel.common.errors import UserError
from worldmodel.dream.batch_vec_env import BatchVecEnv
from worldmodel.dream.dream_env import check_reset_options
from worldmodel.dream.dream_options import DreamKeywords
from worldmodel.dream.dream_vector_env import DreamVectorEnv
from worldmodel.world.world_model import WorldModel

MIN_CNN_SIZE = 36  # rows and columns of the smallest frame that SB3's NatureCNN takes


class DreamVecEnv(BatchVecEnv):
    """The same as Stable-Baselines3's `DummyVecEnv` over N `DreamEnv`s, stepped as one batch.

    A row that ends is reset in the same step. Its last frame is infos[i]["terminal_observation"], and
    infos[i]["TimeLimit.truncated"] is True if the horizon ended it.

    The default network of SB3's `CnnPolicy` needs frames of at least 36 x 36 pixels. For smaller ones, such as the
    toy's 16 x 16, a warning is given; use `MlpPolicy`, or `CnnPolicy` with
    policy_kwargs={"features_extractor_class": worldmodel.collect.learner_view.SmallEncoder}.

    Args:
        world: a world directory, the name of a shipped world, or a loaded `WorldModel`.
        num_envs: N.
        **options: the fields of `DreamOptions`; render modes are None and "rgb_array".

    Raises:
        UserError: not a world directory, or an option that is unknown or out of range.
    """

    def __init__(self, world: str | Path | WorldModel, num_envs: int = 1, **options: Unpack[DreamKeywords]) -> None:
        self.dreams = DreamVectorEnv(num_envs, world=world, autoreset_mode=AutoresetMode.SAME_STEP, **options)
        spaces = self.dreams.single_observation_space, self.dreams.single_action_space
        super().__init__(self.dreams, self.dreams.num_envs, *spaces, self.dreams.render_mode)
        rows, columns, _ = self.dreams.world.tokenizer.frame_shape
        if min(rows, columns) < MIN_CNN_SIZE:
            warnings.warn(
                f"the frames of this world have {rows} x {columns} pixels, but the default network of CnnPolicy needs "
                f"{MIN_CNN_SIZE} x {MIN_CNN_SIZE}: use MlpPolicy, or CnnPolicy with policy_kwargs="
                "{'features_extractor_class': worldmodel.collect.learner_view.SmallEncoder}.",
                stacklevel=2,
            )

    def reset(self) -> np.ndarray:
        """Begin a dream in every row, with the seeds given to `seed` and the starts given to `set_options`.

        Raises:
            UserError: options of some rows alone, or one that is unknown or that only `DreamEnv` takes.
        """
        for options in self._options:
            if "frames" in options:
                raise UserError(
                    "options: frames to begin from are taken by DreamEnv alone; here give {'start': index}."
                )
            check_reset_options(options, ("start",))
        starts = [options.get("start") for options in self._options]
        if None in starts and any(start is not None for start in starts):
            raise UserError("options: some rows have a start and others none; give one to each row or to none.")
        chosen = None if None in starts else {"start": np.asarray(starts)}
        frames, info = self.dreams.reset(seed=self._seeds, options=chosen)
        self.reset_infos = self._row_infos(info)
        self._reset_seeds()
        self._reset_options()
        return frames

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions, (N,) or (N, A), for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Frames (N, H, W, 3) uint8, rewards (N,) float32, dones (N,) bool, one info per row."""
        frames, rewards, terminations, truncations, info = self.dreams.step(self._actions)
        dones = terminations | truncations
        infos = self._row_infos(info)
        if dones.any():
            final = self._row_infos(info["final_info"])
            for i in np.flatnonzero(dones):
                self.reset_infos[i] = {name: infos[i][name] for name in ("start", *self.dreams.options.info)}
                infos[i] = {**final[i], "terminal_observation": info["final_obs"][i]}
        for row, truncated in zip(infos, truncations, strict=True):
            row["TimeLimit.truncated"] = bool(truncated)
        return frames, rewards.astype(np.float32), dones, infos

    def _row_infos(self, info: dict[str, Any]) -> list[dict[str, Any]]:
        """Gymnasium's arrays as one dict per row."""
        names = [name for name in info if not name.startswith(("_", "final_"))]
        rows = [{name: info[name][i] for name in names if info[f"_{name}"][i]} for i in range(self.num_envs)]
        return [{name: x if x.ndim else x.item() for name, x in row.items()} for row in rows]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """The current frames, None without a render mode."""
        return self.dreams.render() or [None] * self.num_envs
