"""The pushing environment: a gymnasium environment around `simulation.Simulation`."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np

from worldmodel.common import spaces
from worldmodel.common.arguments import is_integer
from worldmodel.common.errors import UserError, unknown_name
from worldmodel.envs.pixel_env import EnvStep, PixelEnv, pixel_spec
from worldmodel.envs.push.mujoco_renderer import shared_renderer
from worldmodel.envs.push.scene import CAMERAS, MAX_TOYS, TARGET_ID, Factors
from worldmodel.envs.push.simulation import FRAMES_PER_STEP, Simulation
from worldmodel.envs.push.toys import PALETTES

RENDER_SIZE = 128  # least rows or columns of the picture that is averaged to a frame
GOAL_RADIUS = 0.04  # metres; the sparse reward is 1 within this distance
REWARD_UNIT = 0.01  # metres: the dense reward counts centimetres
ACTION_LABELS = ("forwards", "left", "up", "grip")
_HEADER = struct.Struct("<8sqqq?")  # magic, seed of the episode, checksum of the factors, steps, running
_MAGIC = b"push-1\0\0"


class PushEnv(PixelEnv):
    """An arm above a bin of toys. Box(4) actions in [-1, 1]: forwards, left, up, grip (above 0 closes the gripper).

    A full action moves the hand by 3.5 cm in each direction; "forwards" is up in the frame of the main camera. Each
    action is held for two simulator frames (0.1 s in all). The hand stays inside the bin.

    Variables: `hand_x`, `hand_y`, `hand_z` (metres), `num_toys`, `friction`, `camera_dx`, `camera_dy` (metres); with a
    goal also `distance` (metres, horizontal, from the centre of the target toy to the marker).

    Args:
        goal: one green toy and a magenta marker; the reward is for pushing the toy to the marker. False: reward 0.
        reward: with a goal, "dense" (decrease of `distance` in centimetres) or "sparse" (1 in each step that ends
            with `distance` within 4 cm).
        camera: "main" (from above) or "front".
        num_toys: 1 to 8; None samples 4 to 8 in each episode.
        colours: of the toys, a key of `toys.PALETTES`: "mixed", "dull", "warm" or "cool".
        friction: sliding friction of toys and bin, 0.1 to 2; None samples from [0.4, 1] in each episode.
        camera_jitter: the cameras are moved by up to this many metres in x and in y in each episode, 0 to 0.1.
        size: (rows, columns) of the whole frame before the crop, or one number. The picture is rendered at a whole
            multiple and averaged, 128 x 128 for the default.
        crop: (top, bottom, left, right) of the part that is kept.
        max_steps: truncate after this many steps; None never truncates.
        render_mode: None or "rgb_array".

    Raises:
        UserError: an argument out of range; at the first reset, no OpenGL to render with.
    """

    def __init__(
        self,
        goal: bool = False,
        *,
        reward: str = "dense",
        camera: str = "main",
        num_toys: int | None = None,
        colours: str = "mixed",
        friction: float | None = 0.7,
        camera_jitter: float = 0.0,
        size: int | tuple[int, int] = 64,
        crop: tuple[int, int, int, int] | None = None,
        max_steps: int | None = 30,
        render_mode: str | None = None,
    ) -> None:
        pixels = pixel_spec(size, crop)
        _check_choices(reward=(reward, ("dense", "sparse")), camera=(camera, CAMERAS), colours=(colours, PALETTES))
        self._factors = _checked_factors(goal, num_toys, colours, friction, camera_jitter)
        self._checksum = zlib.crc32(repr(self._factors).encode())
        factors = {name: value for name, value in vars(self._factors).items() if name != "goal"}
        goal_kwargs = {"reward": reward} if goal else {}
        super().__init__(
            id="worldmodel/PushGoal-v0" if goal else "worldmodel/Push-v0",
            kwargs={
                **goal_kwargs,
                "camera": camera,
                **factors,
                "size": list(pixels.size),
                "crop": None if pixels.crop is None else list(pixels.crop),
                "max_steps": max_steps,
            },
            pixels=pixels,
            action_space=spaces.Box((-1.0,) * 4, (1.0,) * 4),
            action_labels=ACTION_LABELS,
            frame_skip=FRAMES_PER_STEP,
            max_steps=max_steps,
            variables=(
                *("hand_x", "hand_y", "hand_z", "num_toys", "friction", "camera_dx", "camera_dy"),
                *(("distance",) if goal else ()),
            ),
            render_mode=render_mode,
        )
        self.metadata = {**self.metadata, "render_fps": 10}
        self.camera, self.reward = camera, reward
        multiple = max(2, -(-RENDER_SIZE // max(pixels.size)))
        self._render_size = (pixels.size[0] * multiple, pixels.size[1] * multiple)
        self._simulation: Simulation | None = None
        self._frame_is_old = False  # restore_state does not render

    @property
    def simulation(self) -> Simulation:
        """The physics of the current episode.

        Raises:
            UserError: no episode was started.
        """
        if self._simulation is None:
            raise UserError(f"{self.meta.id} has no episode: call reset() first.")
        return self._simulation

    def _reset(self) -> EnvStep:
        self._simulation = Simulation(int(self.np_random.integers(2**63)), self._factors)
        self._simulation.settle()
        self._simulation.refresh()
        return self._env_step(0.0)

    def _step(self, action: np.ndarray) -> EnvStep:
        return self._env_step(self.simulate(action))

    def simulate(self, action: np.ndarray) -> float:
        """Move the physics by one step without a frame and without counting the step, for planning.

        Args:
            action: (4,) in [-1, 1].

        Returns:
            The reward.
        """
        simulation, before = self.simulation, self.distance()
        simulation.move(action)
        self._frame_is_old = True
        after = self.distance()
        if before is None or after is None:
            return 0.0
        return (before - after) / REWARD_UNIT if self.reward == "dense" else float(after <= GOAL_RADIUS)

    def distance(self) -> float | None:
        """Horizontal distance from the target toy to its marker in metres; None without a goal."""
        goal = self.simulation.scene.goal
        return None if goal is None else float(np.hypot(*(self.simulation.toys()[TARGET_ID, :2] - goal)))

    def _env_step(self, reward: float) -> EnvStep:
        self._frame_is_old = False
        return EnvStep(self._screen(), reward, variables=self._hidden_variables())

    def _screen(self) -> np.ndarray:
        """The picture before averaging."""
        simulation = self.simulation
        renderer = shared_renderer(simulation.model)
        return renderer.render(simulation.model, simulation.data, self.camera, self._render_size)

    def _hidden_variables(self) -> dict[str, float]:
        scene, distance = self.simulation.scene, self.distance()
        values = (*self.simulation.hand(), len(scene.toys), scene.friction, *scene.camera_offset)
        if distance is not None:
            values = (*values, distance)
        return {name: float(value) for name, value in zip(self.meta.variables, values, strict=True)}

    def render(self) -> np.ndarray | None:
        """The current frame, (H, W, 3) uint8, also after `simulate` and `restore_state`; see `PixelEnv.render`."""
        if self._frame_is_old and self.render_mode is not None:
            self._frame, self._frame_is_old = self._to_frame(self._screen()), False
        return super().render()

    def privileged_state(self) -> dict[str, Any]:
        """Poses at the current time step.

        Returns:
            `hand` (3,) and `toys` (N, 3), metres; `toy_pixels` (N, 2) row and column of the centres in the frame,
            pixel (0, 0) has its centre at (0.5, 0.5); `visible` (N,) bool, the centre is inside the frame and nothing
            is in front of it; with a goal also `goal` (3,), the toy 0 belongs there.

        Raises:
            UserError: no episode was started.
        """
        simulation = self.simulation
        toys, (height, width, _) = simulation.toys(), self.meta.pixels.frame_shape
        pixels = simulation.project(toys, self.camera, self.meta.pixels.size) - self.meta.pixels.origin
        inside = ((pixels >= 0) & (pixels < (height, width))).all(axis=1)
        state = {
            "hand": simulation.hand(),
            "toys": toys,
            "toy_pixels": pixels,
            "visible": inside & ~simulation.hidden(self.camera),
        }
        goal = simulation.goal()
        return state if goal is None else {**state, "goal": goal}

    def save_state(self) -> bytes:
        """The full state of the episode: after `restore_state` the same actions give the same frames, bit by bit.

        The generator of the next episodes is not part of it.
        """
        simulation = self.simulation
        header = _HEADER.pack(_MAGIC, simulation.seed, self._checksum, self._steps, self._running)
        return header + simulation.save().tobytes()

    def restore_state(self, state: bytes) -> None:
        """Go back to a state of `save_state`, in this environment or in one with the same arguments.

        Nothing is rendered before the next step. A state of another episode costs a compilation of its model (5 ms).

        Raises:
            UserError: not a state of an environment with these arguments.
        """
        try:
            magic, seed, checksum, steps, running = _HEADER.unpack_from(state)
            numbers = np.frombuffer(state, np.float64, offset=_HEADER.size).copy()
        except (struct.error, ValueError, TypeError):
            magic = b""
        if magic != _MAGIC:
            raise UserError("restore_state: wanted the bytes of save_state().")
        if checksum != self._checksum:
            raise UserError(
                f"restore_state: the state is of an environment with other arguments than {self.meta.kwargs}."
            )
        simulation = self._simulation
        if simulation is None or simulation.seed != seed:
            simulation = Simulation(seed, self._factors)
        simulation.restore(numbers)
        self._simulation, self._steps, self._running = simulation, steps, running
        self._frame_is_old, self._variables = True, self._hidden_variables()

    def close(self) -> None:
        """End the episode. The renderer is kept for other environments of the process."""
        self._running = False
        self._simulation = None


def _check_choices(**choices: tuple[Any, Any]) -> None:
    """Refuse a value that is not one of the accepted ones; by name of the argument: (value, accepted)."""
    for name, (value, accepted) in choices.items():
        if not isinstance(value, str) or value not in accepted:
            raise unknown_name(name, str(value), accepted)


def _checked_factors(
    goal: bool, num_toys: int | None, colours: str, friction: float | None, camera_jitter: float
) -> Factors:
    """The factors of variation; raises `UserError` for values out of range."""
    if not isinstance(goal, bool | np.bool_):
        raise UserError(f"goal={goal!r}: wanted True or False.")
    if num_toys is not None and not (is_integer(num_toys) and 1 <= num_toys <= MAX_TOYS):
        raise UserError(f"num_toys={num_toys!r}: wanted 1 to {MAX_TOYS}, or None for 4 to 8 at random.")
    if friction is not None and not _is_between(friction, 0.1, 2.0):
        raise UserError(f"friction={friction!r}: wanted a number from 0.1 to 2, or None for 0.4 to 1 at random.")
    if not _is_between(camera_jitter, 0.0, 0.1):
        raise UserError(f"camera_jitter={camera_jitter!r}: wanted metres from 0 to 0.1.")
    return Factors(
        bool(goal),
        None if num_toys is None else int(num_toys),
        colours,
        None if friction is None else float(friction),
        float(camera_jitter),
    )


def _is_between(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and bool(low <= value <= high)
