"""Any gymnasium environment as a `PixelEnv`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.envs.pixel_env import EnvStep, PixelEnv, pixel_spec


class WrappedEnv(PixelEnv):
    """Wraps a gymnasium environment. Its pictures become frames; rewards and flags stay unchanged.

    The screen is the observation where that is uint8 RGB, (rows, columns, 3); else the result of `render()` in
    the mode "rgb_array". `terminated` and `truncated` are passed on unchanged, even if both are set. `max_steps`
    truncates only where neither is set. The frame after the last step counts as valid, except for ViZDoom's own
    environments, which have no picture in the terminal state.

    Args:
        env: an environment, or a gymnasium id, which is made here.
        size: (rows, columns) of the whole frame before the crop, or one number.
        crop: (top, bottom, left, right) of the part that is kept.
        max_steps: truncate after this many steps; None adds no truncation to the environment's own.
        frame_skip: number of times each action is repeated; rewards are summed.
        render_mode: None or "rgb_array", of this wrapper.
        kwargs: for `gymnasium.make`, if `env` is an id.

    Raises:
        UserError: the id cannot be made, the action space is not supported, or there is no RGB picture.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any] | str,
        *,
        size: int | tuple[int, int] = 64,
        crop: tuple[int, int, int, int] | None = None,
        max_steps: int | None = None,
        frame_skip: int = 1,
        render_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(env, str):
            name, inner = env, _make(env, kwargs)
        elif kwargs:
            raise UserError(f"{', '.join(kwargs)}: an environment that is made already takes no further arguments.")
        else:
            name, inner = (env.spec.id if env.spec else type(env.unwrapped).__name__), env
        self.inner = inner
        self.process_manager = getattr(inner.unwrapped, "process_manager", "")
        space = spaces.from_gymnasium(inner.action_space)
        self._observes_screen = is_rgb_picture(inner.observation_space)
        self._is_vizdoom = any(base.__module__.startswith("vizdoom.") for base in type(inner.unwrapped).__mro__)
        if not self._observes_screen and inner.render_mode != "rgb_array":
            raise UserError(
                f"environment {name!r} observes {inner.observation_space}, which is not an RGB picture, and its "
                f"render_mode is {inner.render_mode!r}. Make it with render_mode='rgb_array'."
            )
        pixels = pixel_spec(size, crop)
        super().__init__(
            id=name,
            kwargs={
                **kwargs,
                "size": list(pixels.size),
                "crop": None if pixels.crop is None else list(pixels.crop),
                "max_steps": max_steps,
                "frame_skip": frame_skip,
            },
            pixels=pixels,
            action_space=space,
            action_labels=action_labels(inner, space),
            frame_skip=frame_skip,
            max_steps=max_steps,
            variables=(),
            render_mode=render_mode,
        )
        self.metadata = {**self.metadata, "render_fps": inner.metadata.get("render_fps", 15)}
        self.inner_observation_space = inner.observation_space

    def _reset(self) -> EnvStep:
        # reset with a seed in every episode: an episode then does not depend on the episodes before it
        observation, info = self.inner.reset(seed=int(self.np_random.integers(2**31)))
        self._inner_observation = observation
        return EnvStep(self._screen(observation), info=info)

    def _step(self, action: np.ndarray) -> EnvStep:
        inner_action, total = inner_action_of(action, self.inner.action_space), 0.0
        for _ in range(self.meta.frame_skip):
            observation, reward, terminated, truncated, info = self.inner.step(inner_action)
            total += float(reward)
            if terminated or truncated:
                break
        self._inner_observation = observation
        return EnvStep(self._screen(observation), total, bool(terminated), bool(truncated), info=info)

    def _screen(self, observation: Any) -> np.ndarray | None:
        unwrapped: Any = self.inner.unwrapped
        if self._is_vizdoom and unwrapped.state is None:
            return None  # ViZDoom returns a black picture here
        screen = np.asarray(observation if self._observes_screen else self.inner.render())
        if screen.ndim == 3 and screen.shape[2] == 4 and screen.dtype == np.uint8:
            screen = np.ascontiguousarray(screen[:, :, :3])
        return screen

    def close(self) -> None:
        """Close the wrapped environment."""
        self.inner.close()


def _make(name: str, kwargs: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    """`gymnasium.make`, with render_mode="rgb_array" where it is accepted; its errors become `UserError`."""
    for mode in ({"render_mode": "rgb_array"}, {}):
        try:
            return gymnasium.make(name, disable_env_checker=True, **{**mode, **kwargs})
        except (TypeError, ValueError) as error:
            if "render_mode" not in str(error):
                raise
        except ModuleNotFoundError as error:
            package = error.name or name.partition(":")[0]
            raise UserError(
                f"environment {name!r} needs {package}, which is not installed: pip install {package}"
            ) from error
        except gymnasium.error.Error as error:
            raise UserError(f"environment {name!r} cannot be made: {' '.join(str(error).split())}") from error
    raise UserError(f"environment {name!r} takes no render_mode.")


def is_rgb_picture(space: gymnasium.Space[Any]) -> bool:
    """Whether observations of a space are (rows, columns, 3) uint8."""
    shape = space.shape or ()
    return isinstance(space, gymnasium.spaces.Box) and space.dtype == np.uint8 and len(shape) == 3 and shape[2] == 3


def inner_action_of(action: np.ndarray, space: gymnasium.Space[Any]) -> Any:
    """A validated action in the dtype of a wrapped environment: an int for Discrete, else an array.

    Raises:
        UserError: the wrapped environment's space does not contain this very action.
    """
    if action.ndim == 0:
        return int(action)
    inner_action: np.ndarray = action if space.dtype is None else action.astype(space.dtype)
    if isinstance(space, gymnasium.spaces.Box) and space.dtype is not None and space.dtype.kind == "f":
        # bounds that float32 cannot represent: the nearest float32 may be outside by a rounding error
        inner_action = np.clip(inner_action, space.low, space.high)
    elif not np.array_equal(inner_action, action):
        raise UserError(f"action {action.tolist()}: the environment's action space {space} has integers only.")
    if not space.contains(inner_action):
        raise UserError(f"action {action.tolist()} is outside the environment's action space {space}.")
    return inner_action


def action_labels(env: gymnasium.Env[Any, Any], space: spaces.Space) -> tuple[str, ...]:
    """The environment's own action labels where it has them (Atari does), else indices as text."""
    if isinstance(space, spaces.Discrete):
        meanings = getattr(env.unwrapped, "get_action_meanings", None)
        return tuple(m.lower() for m in meanings()) if meanings else tuple(map(str, range(space.n)))
    return tuple(map(str, range(space.shape[0])))
