"""The slider environment: exactly symmetric between left and right, for tests of mirroring."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldmodel.common import spaces
from worldmodel.envs.env_registry import EnvRow
from worldmodel.envs.pixel_env import EnvStep, PixelEnv, pixel_spec

SIDE, PLACES = 16, 4  # pixels of a side; places of the square, 4 columns each


class SliderEnv(PixelEnv):
    """A square in one of four columns; the actions move it. It loses 30 of its health at a border."""

    def __init__(self, size: int = SIDE, max_steps: int | None = 12, render_mode: str | None = None) -> None:
        super().__init__(
            id="test/Slider-v0",
            kwargs={"size": size, "max_steps": max_steps},
            pixels=pixel_spec(size, None),
            action_space=spaces.Discrete(3),
            action_labels=("stay", "left", "right"),
            frame_skip=1,
            max_steps=max_steps,
            variables=("health",),
            render_mode=render_mode,
        )
        self.place, self.health = 0, 100.0

    def _reset(self) -> EnvStep:
        self.place, self.health = int(self.np_random.integers(PLACES)), 100.0
        return self._env_step()

    def _step(self, action: np.ndarray) -> EnvStep:
        target = self.place + (0, -1, 1)[int(action)]
        if not 0 <= target < PLACES:
            self.health -= 30.0
        self.place = min(max(target, 0), PLACES - 1)
        return self._env_step()

    def _env_step(self) -> EnvStep:
        frame = np.full((SIDE, SIDE, 3), 30, np.uint8)
        frame[4:8, 4 * self.place : 4 * self.place + 4] = (220, 120, int(self.health))
        return EnvStep(frame, 1.0, self.health < 0, variables={"health": self.health})


SLIDER = EnvRow(
    id="test/Slider-v0",
    name="slider",
    entry_point=SliderEnv,
    action_labels=("stay", "left", "right"),
    mirror=(("left", "right"),),
)


def mirrored_copy(env: Any) -> SliderEnv:
    """A slider in the mirrored state of a running one."""
    other = SliderEnv()
    other.reset(seed=0)
    other.place = PLACES - 1 - env.place
    return other
