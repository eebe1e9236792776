"""A small world without a game engine: shelter from storms that are announced once.

Four by four places. Every fourth step a storm strikes everywhere but in one quarter of the world. The
quarter lights up for a single frame, four steps ahead, together with the last storm; then it is dark. Who
stands in it when the storm comes earns 1, who does not loses one of three lives, and the third loss ends the
episode. Lives, the time to the storm and the storms to come are not on the screen:

- where to go is shown for one frame and needed for three more (a stack of four frames shows all of it);
- when the storm comes is told by the steps since the flash;
- the end depends on storms met long ago;
- the next quarter follows from the last three (a de Bruijn cycle of length 64, entered at random): who
  remembers twelve steps can foresee it, who does not sees one of four, equally likely.

The world is deterministic given its state: place (16), storm (64), time to it (4), lives (3), which makes
12,288 states. Starts: any place, any storm, three lives, the first flash on the screen.

What is to be had in 40 steps, all computed exactly in `toy_optimum.py`: the best policy returns 10.00 from
every start, uniform random actions 1.01, the best fixed sequence of actions 1.34. A mean return of 9 counts
as learned.
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
    word, seen, cycle = (0,) * order, {(0,) * order}, []
    for _ in range(symbols**order):
        fresh = [s for s in range(symbols) if (*word[1:], s) not in seen]
        word = (*word[1:], max(fresh, default=0))  # the last one closes the cycle
        seen.add(word)
        cycle.append(word[-1])
    return tuple(cycle)


QUARTERS = _cycle(3, 4)  # quarter of storm i; quarter 2*r + c holds the places of row half r, column half c


class State(NamedTuple):
    """All there is to know: place row * 4 + column, storm 0-63, steps since its flash 0-3, lives left 0-3."""

    place: int
    storm: int
    clock: int
    lives: int


def quarter(place: int) -> int:
    """The quarter, 0 to 3, in which a place lies."""
    row, column = divmod(place, SIDE)
    return 2 * (row // 2) + column // 2


def transition(state: State, action: int) -> tuple[State, float, bool]:
    """One step of the world: (next state, reward, terminated). Pure and deterministic."""
    row, column = divmod(state.place, SIDE)
    down, right = _MOVES[action]
    row, column = min(max(row + down, 0), SIDE - 1), min(max(column + right, 0), SIDE - 1)
    place, clock = row * SIDE + column, state.clock + 1
    if clock < PERIOD:
        return State(place, state.storm, clock, state.lives), 0.0, False
    sheltered = quarter(place) == QUARTERS[state.storm]
    lives = state.lives if sheltered else state.lives - 1
    following = State(place, (state.storm + 1) % len(QUARTERS), 0, lives)
    return following, float(sheltered), lives == 0


def _paint(place: int, lit: int | None, colour: tuple[int, int, int], floor: tuple[int, int, int]) -> np.ndarray:
    """(64, 64, 3) uint8: flat squares of 16 pixels."""
    world = np.full((SIDE, SIDE, 3), floor, np.uint8)
    if lit is not None:
        row, column = divmod(lit, 2)
        world[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = FLASH
    world[divmod(place, SIDE)] = colour
    return world.repeat(16, axis=0).repeat(16, axis=1)


class ToyEnv(PixelEnv):
    """The storms, seen from above: the walker is yellow, green after a storm in shelter, red after a hit.

    Variables: `lives` left, `clock` (steps since the flash), `storm` (which of the 64) and `quarter` (where
    the shelter is).

    Args:
        continuous: actions are Box(2) in [-1, 1], x to the right and y down: the larger one moves by one
            place, and nothing moves if both lie within a third of 0. Otherwise Discrete(5).
        size: rows and columns of the whole picture, or one number.
        crop: (top, bottom, left, right) of it that is kept.
        max_steps: our truncation, in steps.
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

    def _begin(self) -> EnvStep:
        place, storm = self.np_random.integers(SIDE * SIDE), self.np_random.integers(len(QUARTERS))
        self.state = State(int(place), int(storm), 0, LIVES)
        return self._moment(0.0, False)

    def _advance(self, action: np.ndarray) -> EnvStep:
        choice = int(action) if action.ndim == 0 else discretise(action)
        self.state, reward, terminated = transition(self.state, choice)
        return self._moment(reward, terminated, struck=self.state.clock == 0)

    def _moment(self, reward: float, terminated: bool, struck: bool = False) -> EnvStep:
        place, storm, clock, lives = self.state
        colour = CALM if not struck else SAFE if reward else HIT
        lit = QUARTERS[storm] if clock == 0 and not terminated else None
        key = (place, lit, colour, terminated)
        if key not in self._sprites:
            self._sprites[key] = _paint(place, lit, colour, STORM if terminated else FLOOR)
        hidden = {"lives": lives, "clock": clock, "storm": storm, "quarter": QUARTERS[storm]}
        return EnvStep(self._sprites[key], reward, terminated, variables={k: float(v) for k, v in hidden.items()})

    @staticmethod
    def optimal_action(state: State) -> int:
        """An action that loses nothing: towards the shelter of the coming storm, rows first."""
        row, column = divmod(state.place, SIDE)
        half_row, half_column = divmod(QUARTERS[state.storm], 2)
        if row // 2 != half_row:
            return 2 if half_row else 1
        if column // 2 != half_column:
            return 4 if half_column else 3
        return 0


def discretise(action: np.ndarray) -> int:
    """The discrete action that a continuous one stands for.

    Args:
        action: (2,) float, x to the right and y down, in [-1, 1].
    """
    x, y = float(action[0]), float(action[1])
    if max(abs(x), abs(y)) <= DEAD_ZONE:
        return 0
    if abs(x) > abs(y):
        return 4 if x > 0 else 3
    return 2 if y > 0 else 1
