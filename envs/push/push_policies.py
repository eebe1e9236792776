"""Scripted policies of the pushing environment: a random walk as in the BAIR data set, and one that pushes a toy."""

from __future__ import annotations

from typing import Any

import numpy as np

HOLD = (2, 5)  # steps that the walk holds an action: least, greatest
STRIDE = 0.035  # metres of a full action, as in `simulation`
TRAVEL_HEIGHT = 0.25  # metres; the hand passes over toys
PUSH_HEIGHT = 0.178  # metres; the finger tips are 2 cm above the floor
BACKOFF = 0.075  # metres between the hand and the toy where the hand is lowered
CONTACT = 0.038  # metres between the hand and the centre of a toy that it pushes
TOLERANCE = 0.022  # metres; the hand counts as behind the toy within this distance of the line of the push
REACHED = 0.025  # metres; the toy is at its place


class WalkPolicy:
    """A random walk with held actions, as the data policy of BAIR; it sees neither frames nor poses.

    Each action is held for 2 to 5 steps. Its direction is uniform and its speed mostly high. It mostly keeps the hand
    low; with probability `lift` it moves the hand up or down at random. The gripper changes with probability 0.2.

    Args:
        space: the action space; not used.
        env: not used.
        lift: probability that an action moves the hand up or down at random.
    """

    def __init__(self, space: Any, env: Any = None, lift: float = 0.15) -> None:
        self.lift = lift

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode."""
        self.rng = rng
        self.steps_left = 0
        self.grip = rng.choice((-1.0, 1.0))
        self.action = np.zeros(4, np.float32)

    def act(self, frame: np.ndarray) -> np.ndarray:
        """The held action, or a new one; (4,) float32."""
        if self.steps_left == 0:
            rng = self.rng
            self.steps_left = int(rng.integers(HOLD[0], HOLD[1] + 1))
            angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1.0)
            height = rng.uniform(-1, 1) if rng.random() < self.lift else -0.6
            if rng.random() < 0.2:
                self.grip = -self.grip
            self.action = np.array((speed * np.cos(angle), speed * np.sin(angle), height, self.grip), np.float32)
        self.steps_left -= 1
        return self.action.copy()


class ReachPolicy:
    """Pushes a toy to a place: over the toys to the far side, down, then along the line from the toy to the place.

    With a goal it is the target toy and its marker, otherwise a random toy and a random place near the centre of the
    bin; after that another one.

    Args:
        space: the action space; not used.
        env: the environment; its privileged state is used.
        noise: standard deviation of the noise that is added to the action.
    """

    uses_privileged_state = True

    def __init__(self, space: Any, env: Any, noise: float = 0.05) -> None:
        self.env, self.noise = env, noise

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode."""
        self.rng, self.toy = rng, -1

    def act(self, frame: np.ndarray) -> np.ndarray:
        """The next action, (4,) float32."""
        state = self.env.privileged_state()
        if self.toy < 0:
            self._choose(state)
        motion = self._motion(state["hand"], state["toys"][self.toy, :2])
        action = np.append(motion / STRIDE, 1.0) + self.noise * np.append(self.rng.normal(size=3), 0.0)
        return np.clip(action, -1, 1).astype(np.float32)

    def _choose(self, state: dict[str, Any]) -> None:
        """Choose the toy and its place."""
        if "goal" in state:
            self.toy, self.place = 0, state["goal"][:2]
            return
        self.toy = int(self.rng.integers(len(state["toys"])))
        self.place = state["toys"][:, :2].mean(axis=0) + self.rng.uniform(-0.08, 0.08, 2)

    def _motion(self, hand: np.ndarray, toy: np.ndarray) -> np.ndarray:
        """Motion of the hand in the next step, (3,) metres; numbers beyond a full action are cut."""
        distance = float(np.hypot(*(self.place - toy)))
        if distance < REACHED:
            self.toy = -1
            return np.array((0.0, 0.0, TRAVEL_HEIGHT - hand[2]))
        direction = (self.place - toy) / distance
        offset = hand[:2] - toy
        along = float(offset @ direction)
        across = offset - along * direction
        is_low = hand[2] < (PUSH_HEIGHT + TRAVEL_HEIGHT) / 2
        if is_low and along < 0 and np.hypot(*across) < TOLERANCE:
            forward = min(STRIDE, distance - along - CONTACT)
            return np.array((*(direction * forward - across), PUSH_HEIGHT - hand[2]))
        start = toy - BACKOFF * direction
        to_start = start - hand[:2]
        if np.hypot(*to_start) < TOLERANCE / 2 or (not is_low and -along > CONTACT and np.hypot(*across) < 0.01):
            return np.array((*(0.5 * to_start), PUSH_HEIGHT - hand[2]))
        if is_low:
            return np.array((0.0, 0.0, TRAVEL_HEIGHT - hand[2]))
        return np.array((*_bounded(to_start), TRAVEL_HEIGHT - hand[2]))


def _bounded(motion: np.ndarray) -> np.ndarray:
    """A motion (2,) no longer than a full action, in the same direction."""
    return motion * min(1.0, STRIDE / max(float(np.abs(motion).max()), 1e-9))
