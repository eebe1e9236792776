"""A small environment without a game engine: take shelter from storms that are announced once.

The agent moves on a grid of 4 x 4 places. Every fourth step a storm strikes the whole grid except one
quarter, the shelter. The shelter lights up for a single frame, four steps ahead, in the frame that shows the
previous storm. An agent inside the shelter at the storm earns 1. An agent outside loses one of three lives,
and the third loss terminates the episode. Lives, the time to the storm and the coming storms are not visible:

- the shelter is visible for one frame and needed for three more (a stack of four frames contains it);
- the time to the storm follows from the number of steps since the flash;
- termination depends on storms many steps back;
- the next shelter follows from the last three (a de Bruijn cycle of length 64, entered at a random index):
  with a memory of twelve steps it is predictable, without one all four quarters are equally likely.

The environment is deterministic given its state: place (16), storm (64), clock (4), lives (3), which makes
12,288 states. Start states: any place, any storm, three lives, the first flash visible.

Returns over 40 steps, computed exactly in `toy_optimum.py`: optimal policy 10.00 from every start, uniform
random actions 1.01, best fixed sequence of actions 1.34. A mean return of 9 counts as learned.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from worldmodel.common import spaces
from worldmodel.envs.pixel_env import EnvStep, PixelEnv, pixel_spec

SIDE = 4  # places each way
PERIOD = 4  # steps from a flash to its storm
LIVES = 3
NUM_ACTIONS = 5
_MOVES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))  # stay, up, down, left, right: rows, columns
DEAD_ZONE = 1 / 3  # a continuous action stays where both numbers are this small

FLOOR, FLASH, STORM = (36, 40, 56), (64, 132, 236), (92, 28, 36)
CALM, SAFE, HIT = (244, 200, 64), (84, 208, 120), (232, 72, 60)


def _cycle(order: int, symbols: int) -> tuple[int, ...]:
    """A de Bruijn cycle: every word of `order` symbols occurs exactly once (greedy, largest symbol first)."""
    word, used, cycle = (0,) * order, {(0,) * order}, []
    for _ in range(symbols**order):
        unused = [s for s in range(symbols) if (*word[1:], s) not in used]
        word = (*word[1:], max(unused, default=0))  # the last word closes the cycle
        used.add(word)
        cycle.append(word[-1])
    return tuple(cycle)


QUARTERS = _cycle(3, 4)  # quarter of storm i; quarter 2*r + c holds the places of row half r, column half c


class State(NamedTuple):
    """The full state: place row * 4 + column, storm 0-63, steps since its flash 0-3, lives left 0-3."""

    place: int
    storm: int
    clock: int
    lives: int


class ToySavedState(NamedTuple):
    """What `ToyEnv.save_state` returns: the state, steps of the episode, whether it runs, frame and variables."""

    state: State
    steps: int
    running: bool
    frame: np.ndarray | None
    variables: dict[str, float]


def quarter(place: int) -> int:
    """The quarter, 0 to 3, that contains a place."""
    row, column = divmod(place, SIDE)
    return 2 * (row // 2) + column // 2


def transition(state: State, action: int) -> tuple[State, float, bool]:
    """One step: (next state, reward, terminated). Pure and deterministic."""
    row, column = divmod(state.place, SIDE)
    down, right = _MOVES[action]
    row, column = min(max(row + down, 0), SIDE - 1), min(max(column + right, 0), SIDE - 1)
    place, clock = row * SIDE + column, state.clock + 1
    if clock < PERIOD:
        return State(place, state.storm, clock, state.lives), 0.0, False
    sheltered = quarter(place) == QUARTERS[state.storm]
    lives = state.lives if sheltered else state.lives - 1
    successor = State(place, (state.storm + 1) % len(QUARTERS), 0, lives)
    return successor, float(sheltered), lives == 0


def _draw(place: int, lit: int | None, colour: tuple[int, int, int], floor: tuple[int, int, int]) -> np.ndarray:
    """A screen, (64, 64, 3) uint8: places are squares of 16 x 16 pixels of one colour."""
    grid = np.full((SIDE, SIDE, 3), floor, np.uint8)
    if lit is not None:
        row, column = divmod(lit, 2)
        grid[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = FLASH
    grid[divmod(place, SIDE)] = colour
    return grid.repeat(16, axis=0).repeat(16, axis=1)


class ToyEnv(PixelEnv):
    """The grid from above: the agent is yellow, green after a storm in the shelter, red after a hit.

    Variables: `lives` left, `clock` (steps since the flash), `storm` (index in the cycle of 64) and `quarter`
    (the shelter).

    Args:
        continuous: actions are Box(2) in [-1, 1], x to the right and y down. The larger component moves the
            agent by one place; no move if both are within a third of 0. Otherwise Discrete(5).
        size: (rows, columns) of the whole frame before the crop, or one number.
        crop: (top, bottom, left, right) of the part that is kept.
        max_steps: truncate after this many steps; None never truncates.
        render_mode: None or "rgb_array".
    """

    def __init__(
        self,
        continuous: bool = False,
        *,
        size: int | tuple[int, int] = 64,
        crop: tuple[int, int, int, int] | None = None,
        max_steps: int | None = 40,
        render_mode: str | None = None,
    ) -> None:
        pixels = pixel_spec(size, crop)
        space: spaces.Space = spaces.Box((-1.0, -1.0), (1.0, 1.0)) if continuous else spaces.Discrete(NUM_ACTIONS)
        super().__init__(
            id="worldmodel/ToyContinuous-v0" if continuous else "worldmodel/Toy-v0",
            kwargs={
                "size": list(pixels.size),
                "crop": None if pixels.crop is None else list(pixels.crop),
                "max_steps": max_steps,
            },
            pixels=pixels,
            action_space=space,
            action_labels=("x", "y") if continuous else ("stay", "up", "down", "left", "right"),
            frame_skip=1,
            max_steps=max_steps,
            variables=("lives", "clock", "storm", "quarter"),
            render_mode=render_mode,
        )
        self._sprites: dict[tuple[int, int | None, tuple[int, int, int], bool], np.ndarray] = {}
        self.state = State(0, 0, 0, LIVES)

    def _reset(self) -> EnvStep:
        place, storm = self.np_random.integers(SIDE * SIDE), self.np_random.integers(len(QUARTERS))
        self.state = State(int(place), int(storm), 0, LIVES)
        return self._env_step(0.0, False)

    def _step(self, action: np.ndarray) -> EnvStep:
        move = int(action) if action.ndim == 0 else discretise(action)
        self.state, reward, terminated = transition(self.state, move)
        return self._env_step(reward, terminated, struck=self.state.clock == 0)

    def save_state(self) -> ToySavedState:
        """The full state of the episode: after `restore_state` the same actions give the same frames and rewards.

        The generator of the next episodes is not part of it.
        """
        frame = None if self._frame is None else self._frame.copy()
        return ToySavedState(self.state, self._steps, self._running, frame, dict(self._variables))

    def restore_state(self, state: ToySavedState) -> None:
        """Go back to a state of `save_state`, in this environment or in one with the same arguments."""
        self.state, self._steps, self._running = state.state, state.steps, state.running
        self._frame = None if state.frame is None else state.frame.copy()
        self._frame_valid, self._variables = True, dict(state.variables)

    def _env_step(self, reward: float, terminated: bool, struck: bool = False) -> EnvStep:
        place, storm, clock, lives = self.state
        colour = CALM if not struck else SAFE if reward else HIT
        lit = QUARTERS[storm] if clock == 0 and not terminated else None
        key = (place, lit, colour, terminated)
        if key not in self._sprites:
            self._sprites[key] = _draw(place, lit, colour, STORM if terminated else FLOOR)
        hidden = {"lives": lives, "clock": clock, "storm": storm, "quarter": QUARTERS[storm]}
        return EnvStep(self._sprites[key], reward, terminated, variables={k: float(v) for k, v in hidden.items()})

    @staticmethod
    def optimal_action(state: State) -> int:
        """An optimal action: towards the shelter of the coming storm, rows first."""
        row, column = divmod(state.place, SIDE)
        half_row, half_column = divmod(QUARTERS[state.storm], 2)
        if row // 2 != half_row:
            return 2 if half_row else 1
        if column // 2 != half_column:
            return 4 if half_column else 3
        return 0


def discretise(action: np.ndarray) -> int:
    """The discrete action of a continuous one.

    Args:
        action: (2,) float, x to the right and y down, in [-1, 1].
    """
    x, y = float(action[0]), float(action[1])
    if max(abs(x), abs(y)) <= DEAD_ZONE:
        return 0
    if abs(x) > abs(y):
        return 4 if x > 0 else 3
    return 2 if y > 0 else 1
