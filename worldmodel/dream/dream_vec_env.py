"""Many dreams as a Stable-Baselines3 VecEnv.

Shapes: N rows, H W pixels. Observations are frames, uint8 (N, H, W, 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecEnv

from worldmodel.common.errors import UserError
from worldmodel.dream.dream_vector_env import DreamVectorEnv


class BatchVecEnv(VecEnv):
    """A VecEnv whose rows are one object: what is asked of a row is asked of `target`."""

    target: Any

    def close(self) -> None:
        """Let the dreams go."""
        self.target.close()

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        """The attribute of all rows, which share one simulator; the spaces are a row's."""
        of = self if attr_name in ("observation_space", "action_space") else self.target
        return [getattr(of, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: int | Iterable[int] | None = None) -> None:
        """Set an attribute, for all rows."""
        setattr(self.target, attr_name, value)

    def env_method(
        self, method_name: str, *args: Any, indices: int | Iterable[int] | None = None, **kwargs: Any
    ) -> list[Any]:
        """Call a method of the dreams once for each row.

        Raises:
            UserError: `reset` or `step`, which are one call for all rows.
        """
        if method_name in ("reset", "step"):
            raise UserError(f"env_method({method_name!r}): the rows are one batch; call {method_name} of the whole.")
        return [getattr(self.target, method_name)(*args, **kwargs) for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: int | Iterable[int] | None = None) -> list[bool]:
        """No row is wrapped."""
        return [False for _ in self._get_indices(indices)]


class DreamVecEnv(BatchVecEnv):
    """What SB3's `DummyVecEnv` over N `DreamEnv`s is, stepped as one batch.

    A row that ends begins anew in the same step; its last frame is infos[i]["terminal_observation"], and
    infos[i]["TimeLimit.truncated"] says whether the horizon ended it.

    Args:
        world: a world directory, or a loaded `WorldModel`.
        num_envs: N.
        **options: horizon, temperature, top_k, top_p, starts, batch_invariant, info, backend, render_mode, device: as
            for `DreamEnv`.

    Raises:
        UserError: not a world directory, or an argument out of range.
    """

    def __init__(self, world: Any, num_envs: int = 1, **options: Any) -> None:
        self.dreams = DreamVectorEnv(num_envs, world=world, autoreset_mode=AutoresetMode.SAME_STEP, **options)
        self.target, self.render_mode = self.dreams, self.dreams.render_mode
        super().__init__(num_envs, self.dreams.single_observation_space, self.dreams.single_action_space)

    def reset(self) -> np.ndarray:
        """Begin a dream in every row, with the seeds given to `seed` and the starts given to `set_options`.

        Raises:
            UserError: options of some rows alone, or one that only `DreamEnv` takes.
        """
        if any("frames" in options for options in self._options):
            raise UserError("options: a context of your own is taken by DreamEnv alone; here give {'start': index}.")
        starts = [options.get("start") for options in self._options]
        if None in starts and any(start is not None for start in starts):
            raise UserError("options: some rows have a start and others none; give one to each row or to none.")
        chosen = None if None in starts else {"start": np.asarray(starts)}
        frames, info = self.dreams.reset(seed=self._seeds, options=chosen)
        self.reset_infos = self._split(info)
        self._reset_seeds()
        self._reset_options()
        return frames

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions, (N,) or (N, A), for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Frames, rewards (N,) float32, dones (N,) bool, one info a row."""
        frames, rewards, terminations, truncations, info = self.dreams.step(self._actions)
        dones = terminations | truncations
        infos = self._split(info)
        if dones.any():
            last = self._split(info["final_info"])
            for i in np.flatnonzero(dones):
                self.reset_infos[i] = {name: infos[i][name] for name in ("start", *self.dreams.info)}
                infos[i] = {**last[i], "terminal_observation": info["final_obs"][i]}
        for row, truncated in zip(infos, truncations, strict=True):
            row["TimeLimit.truncated"] = bool(truncated)
        return frames, rewards.astype(np.float32), dones, infos

    def _split(self, info: dict[str, Any]) -> list[dict[str, Any]]:
        """Gymnasium's arrays as one dict a row."""
        names = [name for name in info if not name.startswith(("_", "final_"))]
        rows = [{name: info[name][i] for name in names if info[f"_{name}"][i]} for i in range(self.num_envs)]
        return [{name: x if x.ndim else x.item() for name, x in row.items()} for row in rows]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """The frames last shown."""
        return self.dreams.render() or [None] * self.num_envs
