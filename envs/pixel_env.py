"""A world seen as pixels: the base class of every environment of ours.

Shapes: H, W rows and columns of a frame; A numbers of an action. A subclass tells what happens (`_begin`,
`_advance`); this class turns screens into frames, counts steps, refuses mistakes and keeps the contract of
`docs/architecture.md`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec, to_frame


@dataclass(frozen=True)
class EnvMeta:
    """What a dataset stores of its environment. `make(meta.id, **meta.kwargs)` builds the same world again.

    Attributes:
        id: the name that `worldmodel.envs.make` takes.
        kwargs: its keyword arguments, JSON values only.
        pixels: how a screen becomes a frame.
        action_space: one of the four kinds of `worldmodel.common.spaces`.
        action_labels: a name for each choice of a Discrete space, for each of the A numbers otherwise.
        frame_skip: the environment's own ticks that one step takes.
        max_steps: steps after which we truncate; None never does.
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
    """What a subclass reports of one moment.

    Attributes:
        screen: (rows, columns, 3) uint8, or None where the environment gives no picture of this moment.
        reward: earned by the step that led here.
        terminated: the environment itself ended here.
        truncated: an inner environment's own truncation; worlds of ours leave it False.
        variables: hidden variables by name.
        info: anything else for the info dictionary.
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
    """A `PixelSpec` from arguments as users and JSON files give them.

    Args:
        size: rows and columns, or one number for a square.
        crop: top, bottom, left, right within that size, or None.

    Raises:
        UserError: not whole numbers, or a crop that does not fit.
    """
    pair = tuple(size) if isinstance(size, tuple | list) else (size, size)
    numbers = [*pair, *(crop or ())]
    if len(pair) != 2 or len(numbers) not in (2, 6) or not all(isinstance(n, int) for n in numbers):
        raise UserError(
            f"size={size}, crop={crop}: wanted size as one or two whole numbers (rows, columns) and crop as "
            "four (top, bottom, left, right) or None."
        )
    box = None if crop is None else (crop[0], crop[1], crop[2], crop[3])
    return PixelSpec((pair[0], pair[1]), box)


class PixelEnv(gymnasium.Env[np.ndarray, Any]):
    """A gymnasium environment whose observations are frames, (H, W, 3) uint8.

    `info` carries `frame_valid` (bool: the frame is the environment's true picture of this moment; where it
    gives none, the last real frame is shown again, together with its variables) and `variables`
    (dict name -> float). Each frame is a fresh array.

    Args:
        id: the name that `worldmodel.envs.make` takes.
        kwargs: JSON values with which `make` builds this world again.
        pixels: how a screen becomes a frame.
        action_space: one of the four kinds.
        action_labels: a name for each choice or each number.
        frame_skip: the environment's own ticks that one step takes, >= 1.
        max_steps: truncate after so many steps, >= 1; None never does.
        variables: names of the hidden variables.
        render_mode: None or "rgb_array".

    Raises:
        UserError: an unknown render mode, or a max_steps or frame_skip below 1.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012 (gymnasium's own spelling)

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
        for name, value in (("max_steps", max_steps), ("frame_skip", frame_skip)):
            if value is not None and value < 1:
                raise UserError(f"{name}={value}: wanted at least 1.")
        self.meta = EnvMeta(id, kwargs, pixels, action_space, action_labels, frame_skip, max_steps, variables)
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(0, 255, pixels.frame_shape, np.uint8)
        self.action_space = spaces.to_gymnasium(action_space)
        self._frame: np.ndarray | None = None
        self._variables: dict[str, float] = {}
        self._steps = 0
        self._running = False

    def _begin(self) -> EnvStep:
        """Start an episode, drawing all randomness from `self.np_random`; its screen is never None."""
        raise NotImplementedError

    def _advance(self, action: np.ndarray) -> EnvStep:
        """Take one step with a checked action, () or (A,), int64 or float32."""
        raise NotImplementedError

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode. The same seed and the same actions give the same episode.

        Args:
            seed: seeds this environment's generator; None goes on with the generator it has.
            options: none are known; only None or {} is accepted.

        Returns:
            The first frame (H, W, 3) uint8 and the info.

        Raises:
            UserError: options were given.
        """
        if options:
            raise UserError(f"reset(options={options!r}): {self.meta.id} takes no options.")
        super().reset(seed=seed)
        self._running = False
        moment = self._begin()
        assert moment.screen is not None, "the first moment of an episode has a picture"
        self._steps = 0
        self._running = True
        return self._show(moment)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one step.

        Args:
            action: one element of the action space.

        Returns:
            frame (H, W, 3) uint8, reward, terminated (the environment ended), truncated (max_steps reached
            without an end; never both, unless a wrapped foreign environment sets both itself), info.

        Raises:
            UserError: the action is not in the space, or no episode is going on.
        """
        if not self._running:
            raise UserError(f"step() of {self.meta.id} without an episode: call reset() first.")
        space = self.meta.action_space
        checked = spaces.check_actions(space, action, "action")
        if checked.shape != space.shape:
            raise UserError(f"action: got shape {checked.shape}, wanted one action of shape {space.shape}.")
        moment = self._advance(checked)
        self._steps += 1
        frame, info = self._show(moment)
        truncated = moment.truncated
        if self.meta.max_steps is not None and self._steps >= self.meta.max_steps and not moment.terminated:
            truncated = True
        self._running = not (moment.terminated or truncated)
        return frame, float(moment.reward), moment.terminated, truncated, info

    def _show(self, moment: EnvStep) -> tuple[np.ndarray, dict[str, Any]]:
        """The moment as a fresh frame and its info; without a picture, the last real one again."""
        valid = moment.screen is not None
        if moment.screen is not None:
            self._frame = to_frame(moment.screen, self.meta.pixels)
            self._variables = moment.variables
        assert self._frame is not None
        info = {**moment.info, "frame_valid": valid, "variables": dict(self._variables)}
        return self._frame.copy(), info

    def render(self) -> np.ndarray | None:
        """The current frame, (H, W, 3) uint8, if `render_mode` is "rgb_array" and an episode has begun."""
        if self.render_mode is None or self._frame is None:
            return None
        return self._frame.copy()
