"""The base class of all environments of this package: gymnasium environments that are observed as frames.

Shapes: H, W rows and columns of a frame; A components of an action. A subclass implements two hooks, `_reset` and
`_step`. This class resizes screens to frames, counts steps, truncates, and validates actions and arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from worldmodel.common import spaces
from worldmodel.common.arguments import checked_integer, is_integer
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec, to_frame
from worldmodel.envs.env_registry import action_keys


@dataclass(frozen=True)
class EnvMeta:
    """What a dataset stores of its environment. `make(meta.id, **meta.kwargs)` makes the same environment again.

    Attributes:
        id: the name for `worldmodel.envs.make`.
        kwargs: its keyword arguments, JSON values only.
        pixels: size and crop of a frame.
        action_space: one of the kinds of `worldmodel.common.spaces`.
        action_labels: one label per choice of a Discrete space, else one per component of an action.
        frame_skip: ticks of the game per step.
        max_steps: truncate after this many steps; None never truncates.
        variables: names of the hidden variables in `info["variables"]`.
    """

    id: str
    kwargs: dict[str, Any]
    pixels: PixelSpec
    action_space: spaces.Space
    action_labels: tuple[str, ...]
    frame_skip: int
    max_steps: int | None
    variables: tuple[str, ...]

    @property
    def action_keys(self) -> tuple[str, ...]:
        """The key of each action label by the registry, "" for none; () for an environment without keys."""
        return action_keys(self.id, self.action_labels)

    def to_json(self) -> dict[str, Any]:
        """All attributes as JSON values."""
        return {
            "id": self.id,
            "kwargs": self.kwargs,
            "pixels": self.pixels.to_json(),
            "action_space": self.action_space.to_json(),
            "action_labels": list(self.action_labels),
            "frame_skip": self.frame_skip,
            "max_steps": self.max_steps,
            "variables": list(self.variables),
        }

    @staticmethod
    def from_json(spec: dict[str, Any]) -> EnvMeta:
        """The inverse of `to_json`."""
        return EnvMeta(
            id=spec["id"],
            kwargs=dict(spec["kwargs"]),
            pixels=PixelSpec.from_json(spec["pixels"]),
            action_space=spaces.from_json(spec["action_space"]),
            action_labels=tuple(spec["action_labels"]),
            frame_skip=int(spec["frame_skip"]),
            max_steps=None if spec["max_steps"] is None else int(spec["max_steps"]),
            variables=tuple(spec["variables"]),
        )


@dataclass(frozen=True)
class EnvStep:
    """The result of one `_reset` or `_step` of a subclass.

    Attributes:
        screen: rendered picture, (rows, columns, 3) uint8; None where the environment renders none.
        reward: reward of the step.
        terminated: the task ended.
        truncated: truncation by a wrapped environment. `max_steps` is counted by `PixelEnv`, not here.
        variables: hidden variables by name.
        info: further entries of the info dictionary.
    """

    screen: np.ndarray | None
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    variables: dict[str, float] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)


def pixel_spec(
    size: int | tuple[int, int] | list[int], crop: tuple[int, int, int, int] | list[int] | None
) -> PixelSpec:
    """A `PixelSpec` from user arguments or JSON values.

    Args:
        size: (rows, columns), or one number for a square.
        crop: (top, bottom, left, right) within that size, or None.

    Raises:
        UserError: not whole numbers, or a crop that does not fit.
    """
    pair: Any = (size, size) if is_integer(size) else tuple(size) if np.iterable(size) else (size,)
    numbers = [*pair, *(() if crop is None else crop)]
    if len(pair) != 2 or len(numbers) not in (2, 6) or not all(map(is_integer, numbers)):
        raise UserError(
            f"size={size}, crop={crop}: wanted size as one or two whole numbers (rows, columns) and crop as "
            "four (top, bottom, left, right) or None."
        )
    rows, columns, *box = map(int, numbers)
    return PixelSpec((rows, columns), (box[0], box[1], box[2], box[3]) if box else None)


def json_values(value: Any) -> Any:
    """Numpy numbers and arrays as Python numbers and lists, tuples as lists; other values unchanged."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {name: json_values(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(item) for item in value]
    return value


class PixelEnv(gymnasium.Env[np.ndarray, Any]):
    """A gymnasium environment whose observations are frames, (H, W, 3) uint8.

    `info` has two entries of this class. `variables` (dict name -> float) are the hidden variables.
    `frame_valid` (bool) is False where the environment rendered no picture for this time step; then the last
    valid frame and its variables are repeated. Each frame is a new array.

    `inner_observation_space` is the observation space of a wrapped environment, that of this environment otherwise.

    Args:
        id: the name for `worldmodel.envs.make`.
        kwargs: JSON values with which `make` makes this environment again.
        pixels: size and crop of a frame.
        action_space: one of the kinds of `worldmodel.common.spaces`.
        action_labels: one label per choice of a Discrete space, else one per component of an action.
        frame_skip: ticks of the game per step, >= 1.
        max_steps: truncate after this many steps, >= 1; None never truncates.
        variables: names of the hidden variables.
        render_mode: None or "rgb_array".

    Raises:
        UserError: an unknown render mode, or a max_steps or frame_skip below 1.
    """

    process_manager: str = ""  # module with the functions of `ProcessManager`, if this class starts processes
    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012 (declared so by gymnasium)

    def __init__(
        self,
        *,
        id: str,
        kwargs: dict[str, Any],
        pixels: PixelSpec,
        action_space: spaces.Space,
        action_labels: tuple[str, ...],
        frame_skip: int,
        max_steps: int | None,
        variables: tuple[str, ...],
        render_mode: str | None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise UserError(f"render_mode={render_mode!r}: wanted None or 'rgb_array'.")
        frame_skip = checked_integer("frame_skip", frame_skip)
        max_steps = None if max_steps is None else checked_integer("max_steps", max_steps)
        kwargs = json_values(kwargs)
        self.meta = EnvMeta(id, kwargs, pixels, action_space, action_labels, frame_skip, max_steps, variables)
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(0, 255, pixels.frame_shape, np.uint8)
        self.action_space = spaces.to_gymnasium(action_space)
        self.inner_observation_space: gymnasium.Space[Any] = self.observation_space
        self._inner_observation: Any = None
        self._frame: np.ndarray | None = None
        self._frame_valid = True
        self._variables: dict[str, float] = {}
        self._steps = 0
        self._running = False

    def enable_privileged_state(self) -> None:
        """Make `privileged_state` available from the next reset on. Frames do not depend on it."""

    def privileged_state(self) -> dict[str, Any]:
        """Hidden state of the simulator (positions, labels, depth) at the current time step, for scripted policies
        and tests. It is in no observation, info or dataset.

        Raises:
            UserError: this environment has none, or `enable_privileged_state` was not called before the reset.
        """
        raise UserError(f"{self.meta.id} has no privileged state.")

    @property
    def inner_observation(self) -> Any:
        """The last observation of a wrapped environment; the frame if this environment wraps none."""
        return self._frame if self._inner_observation is None else self._inner_observation

    def _reset(self) -> EnvStep:
        """Start an episode. All randomness comes from `self.np_random`. The screen must not be None."""
        raise NotImplementedError

    def _step(self, action: np.ndarray) -> EnvStep:
        """Take one step with a validated action, () or (A,), int64 or float32."""
        raise NotImplementedError

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode. The same seed and the same actions give the same episode.

        Args:
            seed: seeds this environment's generator; None continues with the current generator.
            options: only None or {} is accepted.

        Returns:
            The first frame (H, W, 3) uint8 and the info.

        Raises:
            UserError: options were given.
        """
        if options:
            raise UserError(f"reset(options={options!r}): {self.meta.id} takes no options.")
        super().reset(seed=seed)
        self._running = False
        step = self._reset()
        assert step.screen is not None, "the first frame of an episode must be valid"
        self._steps = 0
        self._running = True
        return self._observe(step)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one step.

        Args:
            action: one element of the action space.

        Returns:
            frame (H, W, 3) uint8, reward, terminated (the task ended), truncated (max_steps reached without
            termination; both are True only where a wrapped environment sets both), info.

        Raises:
            UserError: the action is outside the action space, or no episode is running.
        """
        if not self._running:
            raise UserError(f"step() of {self.meta.id} without an episode: call reset() first.")
        space = self.meta.action_space
        checked = spaces.check_actions(space, action, "action")
        if checked.shape != space.shape:
            raise UserError(f"action: got shape {checked.shape}, wanted one action of shape {space.shape}.")
        step = self._step(checked)
        self._steps += 1
        frame, info = self._observe(step)
        truncated = step.truncated
        if self.meta.max_steps is not None and self._steps >= self.meta.max_steps and not step.terminated:
            truncated = True
        self._running = not (step.terminated or truncated)
        return frame, float(step.reward), step.terminated, truncated, info

    def _observe(self, step: EnvStep) -> tuple[np.ndarray, dict[str, Any]]:
        """A new frame and its info; without a screen, the last valid frame again."""
        self._frame_valid = step.screen is not None
        if step.screen is not None:
            self._frame = self._to_frame(step.screen)
            self._variables = step.variables
        assert self._frame is not None
        info = {**step.info, "frame_valid": self._frame_valid, "variables": dict(self._variables)}
        return self._frame.copy(), info

    def _to_frame(self, screen: np.ndarray) -> np.ndarray:
        """A new array: the screen as a frame."""
        return to_frame(screen, self.meta.pixels)

    def render(self) -> np.ndarray | None:
        """The current frame, (H, W, 3) uint8, if `render_mode` is "rgb_array" and an episode has started."""
        if self.render_mode is None or self._frame is None:
            return None
        return self._frame.copy()
