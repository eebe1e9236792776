"""The base of VecEnvs whose rows are one batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gymnasium
from stable_baselines3.common.vec_env import VecEnv

from worldmodel.common.errors import UserError
from worldmodel.dream.dream_options import FPS


class BatchVecEnv(VecEnv):
    """A Stable-Baselines3 VecEnv whose rows are one object, `batch`: attributes and methods of a row are the batch's.

    Args:
        batch: the object.
        num_envs: N, its rows.
        observation_space, action_space: of one row.
        render_mode: None or "rgb_array".
    """

    def __init__(
        self,
        batch: Any,
        num_envs: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        render_mode: str | None = None,
    ) -> None:
        self.batch, self.render_mode = batch, render_mode
        super().__init__(num_envs, observation_space, action_space)
        self.metadata: dict[str, Any] = {
            "render_modes": ["human", "rgb_array"],
            "render_fps": FPS,
        }  # SB3 shows the first with OpenCV

    def close(self) -> None:
        """Close the batch."""
        self.batch.close()

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        """The batch's attribute, once for each row; spaces and render mode are those of one row."""
        own = attr_name in ("observation_space", "action_space", "render_mode")
        return [getattr(self if own else self.batch, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: int | Iterable[int] | None = None) -> None:
        """Set an attribute of the batch.

        Raises:
            UserError: only some of the rows, which share their attributes.
        """
        if len(set(self._get_indices(indices))) != self.num_envs:
            raise UserError(f"set_attr({attr_name!r}): the rows share their attributes; leave the indices out.")
        setattr(self.batch, attr_name, value)

    def env_method(
        self, method_name: str, *args: Any, indices: int | Iterable[int] | None = None, **kwargs: Any
    ) -> list[Any]:
        """Call a method of the batch once for each row; "render" gives each row's own image.

        Raises:
            UserError: `reset` or `step`, which are one call for all rows.
        """
        if method_name in ("reset", "step"):
            raise UserError(f"env_method({method_name!r}): the rows are one batch; call {method_name} of the VecEnv.")
        if method_name == "render":
            images = self.get_images()
            return [images[i] for i in self._get_indices(indices)]
        return [getattr(self.batch, method_name)(*args, **kwargs) for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: int | Iterable[int] | None = None) -> list[bool]:
        """No row is wrapped."""
        return [False for _ in self._get_indices(indices)]
