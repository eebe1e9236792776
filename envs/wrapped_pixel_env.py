"""A `PixelEnv` inside gymnasium wrappers, as a `PixelEnv`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from worldmodel.common import spaces
from worldmodel.common.pixels import PixelSpec
from worldmodel.envs.pixel_env import EnvStep, PixelEnv
from worldmodel.envs.wrapped_env import action_labels, inner_action_of, is_rgb_picture

CHECKING_WRAPPERS = ("OrderEnforcing", "PassiveEnvChecker")  # `gymnasium.make` adds them; they change nothing


def wrappers_of(env: gymnasium.Env[Any, Any]) -> tuple[gymnasium.Env[Any, Any], ...]:
    """The wrappers around an environment from the outermost, without those that only check."""
    wrappers = []
    while env is not env.unwrapped:
        if type(env).__name__ not in CHECKING_WRAPPERS:
            wrappers.append(env)
        env = env.env  # type: ignore[attr-defined]
    return tuple(wrappers)


class WrappedPixelEnv(PixelEnv):
    """Steps a wrapped `PixelEnv`, so that its wrappers take effect, and keeps the contract of `PixelEnv`.

    Frames are the observations of the outermost wrapper where these are uint8 RGB, (rows, columns, 3); else the
    frames of the environment inside. The names of the wrappers are stored as the argument `wrappers`: the environment
    cannot be made again by its id.

    Args:
        env: a `PixelEnv` inside gymnasium wrappers.

    Raises:
        UserError: the action space is not supported.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        unwrapped: Any = env.unwrapped
        inner: PixelEnv = unwrapped
        self.env, self.inner, self.process_manager = env, inner, inner.process_manager
        wrappers = wrappers_of(env)
        meta, space = inner.meta, spaces.from_gymnasium(env.action_space)
        limits = [getattr(wrapper, "_max_episode_steps", None) for wrapper in wrappers]  # of TimeLimit
        self._observes_frame = is_rgb_picture(env.observation_space)
        rows, columns, _ = (env.observation_space.shape if self._observes_frame else None) or meta.pixels.frame_shape
        super().__init__(
            id=meta.id,
            kwargs={**meta.kwargs, "wrappers": [type(wrapper).__name__ for wrapper in wrappers]},
            pixels=meta.pixels if (rows, columns, 3) == meta.pixels.frame_shape else PixelSpec((rows, columns)),
            action_space=space,
            action_labels=meta.action_labels if space == meta.action_space else action_labels(env, space),
            frame_skip=meta.frame_skip,
            max_steps=min((limit for limit in [*limits, meta.max_steps] if limit is not None), default=None),
            variables=meta.variables,
            render_mode=inner.render_mode,
        )
        self.metadata = {**self.metadata, "render_fps": inner.metadata.get("render_fps", 15)}
        self.inner_observation_space = env.observation_space
        self._reset_seed: int | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode, with the seed of the environment inside; see `PixelEnv.reset`."""
        self._reset_seed = seed
        return super().reset(seed=seed, options=options)

    def _reset(self) -> EnvStep:
        observation, info = self.env.reset(seed=self._reset_seed)
        return self._env_step(observation, 0.0, False, False, info)

    def _step(self, action: np.ndarray) -> EnvStep:
        observation, reward, terminated, truncated, info = self.env.step(inner_action_of(action, self.env.action_space))
        return self._env_step(observation, float(reward), bool(terminated), bool(truncated), info)

    def _env_step(
        self, observation: Any, reward: float, terminated: bool, truncated: bool, info: dict[str, Any]
    ) -> EnvStep:
        self._inner_observation = observation
        rest = {key: value for key, value in info.items() if key not in ("frame_valid", "variables")}
        variables = info.get("variables", self.inner._variables)
        frame = observation if self._observes_frame else self.inner._frame
        valid = info.get("frame_valid", self.inner._frame_valid)
        return EnvStep(frame if valid else None, reward, terminated, truncated, variables, rest)

    def _to_frame(self, screen: np.ndarray) -> np.ndarray:
        return np.array(screen)  # size and crop are applied inside

    def close(self) -> None:
        """Close the wrapped environment."""
        self.env.close()
