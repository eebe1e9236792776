"""Scripted policies of Doom environments that read the engine's privileged state.

They are skilled baselines and sources of data: the frames that they record show medikits, fireballs and monsters near
by, which random play seldom reaches. Angles are in degrees, counter-clockwise; a bearing is the angle from the
player's view to an object, positive to the left. Distances are in map units.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from worldmodel.common.errors import UserError
from worldmodel.common.spaces import Discrete, MultiDiscrete, Space
from worldmodel.envs.doom_battle import NO_TURN, TURNS


def bearing_and_distance(state: dict[str, Any], position: tuple[float, float, float]) -> tuple[float, float]:
    """Bearing in [-180, 180) and distance of a position, from the player of a privileged state."""
    dx, dy = position[0] - state["position"][0], position[1] - state["position"][1]
    bearing = math.degrees(math.atan2(dy, dx)) - state["angle"]
    return (bearing + 180) % 360 - 180, math.hypot(dx, dy)


class _PrivilegedPolicy:
    """Base of the policies: reads the state of an environment.

    Args:
        space: the environment's action space.
        env: the environment.
    """

    uses_privileged_state = True

    def __init__(self, space: Space, env: Any) -> None:
        self._space, self._env = space, env

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode; all randomness comes from `rng`."""
        self._rng = rng

    def _actions(self, *labels: str) -> list[int]:
        """Indices of the choices with these labels.

        Raises:
            UserError: the environment has other actions.
        """
        found = self._env.meta.action_labels
        if not isinstance(self._space, Discrete) or not set(labels) <= set(found):
            raise UserError(
                f"policy {type(self).__name__} plays environments with the actions {', '.join(labels)}; "
                f"{self._env.meta.id} has {', '.join(found)}."
            )
        return [found.index(label) for label in labels]


class _Wanderer:
    """Walks to the farthest visible place, by the depth buffer, and turns by a random angle where it is stuck.

    A bias to one side, sampled again every few seconds, keeps it from walking in circles.
    """

    HALF_VIEW = 45.0  # degrees from the middle of the screen to its edge
    CLEARANCE = 0.12  # share of the columns on each side that must be as far, for the width of the player
    NEAR = 6.0  # depth of a wall at which it turns away, in units of the depth buffer (0 to 255)
    STUCK_STEPS, STUCK_DISTANCE = 3, 5.0  # stuck after so many steps that moved less than so many map units
    GOAL = 0.8  # weight of the direction of a goal
    BIAS_STEPS, BIAS = 30, 0.3  # steps between two samples; relative depth added at one edge of the view

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode."""
        self._rng = rng
        self._position, self._slow_steps, self._escape, self._escape_steps = (math.inf, math.inf), 0, 0.0, 0
        self._bias, self._bias_steps = 0.0, 0

    def bearing(self, state: dict[str, Any], goal: float | None = None) -> float:
        """The bearing to turn to in this step; call it in every step.

        Args:
            state: the privileged state.
            goal: bearing of a place to prefer, which may be behind walls; None prefers none.
        """
        moved, self._position = math.dist(self._position, state["position"][:2]), state["position"][:2]
        self._slow_steps = self._slow_steps + 1 if moved < self.STUCK_DISTANCE else 0
        if self._bias_steps == 0:
            self._bias, self._bias_steps = float(self._rng.uniform(-self.BIAS, self.BIAS)), self.BIAS_STEPS
        self._bias_steps -= 1
        if self._escape_steps > 0:
            self._escape_steps -= 1
            self._slow_steps = 0
            return self._escape
        height, width = state["depth"].shape
        depth = state["depth"][height // 2 - 1 : height // 2 + 1].min(0).astype(float)  # (W,)
        margin = max(1, int(width * self.CLEARANCE))
        clear = np.lib.stride_tricks.sliding_window_view(np.pad(depth, margin, mode="edge"), 2 * margin + 1).min(1)
        offset = 1 - 2 * (np.arange(width) + 0.5) / width  # 1 at the left edge, -1 at the right
        if self._slow_steps >= self.STUCK_STEPS or clear.max() < self.NEAR:
            self._escape, self._escape_steps = float(self._rng.choice((-90.0, 90.0))), int(self._rng.integers(2, 6))
            return self._escape
        bearings = np.degrees(np.arctan(offset * math.tan(math.radians(self.HALF_VIEW))))
        value = clear * (1 + self._bias * offset)
        if goal is not None:
            value *= 1 + self.GOAL * np.cos(np.radians(bearings - goal))
        return float(bearings[int(np.argmax(value))])


class MedikitSeeker(_PrivilegedPolicy):
    """Health gathering: turns to a visible medikit and walks to it; wanders if it sees none.

    It chooses the medikit with the smallest distance plus `TURN_COST` for each degree of its bearing, and keeps the
    choice until the medikit is gone or out of view.
    """

    TURN_COST = 2.0  # map units a degree: a step turns by 7 to 14 degrees or walks some 25 units
    REACH = 36.0  # map units off the line at which a medikit is still picked up
    MIN_TOLERANCE, WANDER_TOLERANCE = 12.0, 25.0  # degrees

    def __init__(self, space: Space, env: Any) -> None:
        super().__init__(space, env)
        self._left, self._right, self._forward = self._actions("turn_left", "turn_right", "forward")
        self._wanderer = _Wanderer()

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode."""
        super().begin(rng)
        self._wanderer.begin(rng)
        self._target: int | None = None

    def act(self, frame: np.ndarray) -> int:
        """The action for the current state; the frame is not used."""
        state = self._env.privileged_state()
        wander = self._wanderer.bearing(state)
        medikits = {
            label["id"]: bearing_and_distance(state, label["position"])
            for label in state["labels"]
            if label["category"] == "Health" and label["name"] != "Poison"
        }
        if not medikits:
            self._target = None
            return self._towards(wander, self.WANDER_TOLERANCE)
        if self._target not in medikits:
            self._target = min(medikits, key=lambda i: medikits[i][1] + self.TURN_COST * abs(medikits[i][0]))
        bearing, distance = medikits[self._target]
        tolerance = max(self.MIN_TOLERANCE, math.degrees(math.atan2(self.REACH, max(distance, 1.0))))
        return self._towards(bearing, tolerance)

    def _towards(self, bearing: float, tolerance: float) -> int:
        if abs(bearing) <= tolerance:
            return self._forward
        return self._left if bearing > 0 else self._right


class FireballDodger(_PrivilegedPolicy):
    """Take-cover: simulates 33 plans of sideways movement against all fireballs and takes the safest.

    A plan holds one of left, right and still for up to `HORIZON` tics, with at most one change. Its cost is high where
    it meets a fireball, and grows near fireballs and away from the middle. A decision is held for `hold` steps.

    Args:
        space: the environment's action space.
        env: the environment.
        hold: steps per decision.
    """

    HORIZON = 44  # tics
    FRICTION = 0.90625  # factor of the velocity in a tic
    THRUST = 0.66  # velocity gained in a tic, map units a tic
    WALLS = (16.0, 752.0)  # reachable y coordinates
    RADIUS = 26.0  # a fireball nearer than this hits, with a margin (6 and 16 are the radii of fireball and player)
    NEAR = 70.0  # distance at which a fireball begins to cost
    DISCOUNT = 0.97  # of the cost, for each tic ahead
    MIDDLE = 0.15  # cost of an end at a wall

    def __init__(self, space: Space, env: Any, hold: int = 2) -> None:
        super().__init__(space, env)
        left, right, still = self._actions("left", "right", "noop")
        self._action_of = {1: left, -1: right, 0: still}
        self._hold = hold
        directions = (-1, 0, 1)
        constant = [np.full(self.HORIZON, d) for d in directions]
        changing = [
            np.repeat([first, second], [tics, self.HORIZON - tics])
            for first in directions
            for second in directions
            for tics in (4, 8, 12, 16, 24)
            if first != second
        ]
        self._plans = np.stack(constant + changing).astype(float)  # (33, HORIZON), 1 is left

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode."""
        super().begin(rng)
        self._held, self._action = 0, 0

    def act(self, frame: np.ndarray) -> int:
        """The action for the current state; the frame is not used."""
        if self._held % self._hold == 0:
            self._action = self._decide(self._env.privileged_state())
        self._held += 1
        return self._action

    def _decide(self, state: dict[str, Any]) -> int:
        left = 1.0 if math.cos(math.radians(state["angle"])) > 0 else -1.0  # the direction of "left" on the y axis
        y = self._simulate(state["position"][1], state["velocity"][1], left)
        middle = sum(self.WALLS) / 2
        cost = self.MIDDLE * np.abs(y[:, -1] - middle) / (self.WALLS[1] - middle)
        tics = np.arange(1, self.HORIZON + 1)
        for item in state["objects"]:
            if item["name"] != "DoomImpBall":
                continue
            is_close = np.abs(item["position"][0] + item["velocity"][0] * tics - state["position"][0]) < self.RADIUS
            if not is_close.any():
                continue
            ball = item["position"][1] + item["velocity"][1] * tics
            gap = np.abs(y - ball)[:, is_close].min(1)
            danger = np.where(gap < self.RADIUS, 10.0, 0.0) + np.clip(1 - gap / self.NEAR, 0, 1)
            cost += danger * self.DISCOUNT ** int(np.argmax(is_close))
        return self._action_of[int(self._plans[int(cost.argmin()), 0])]

    def _simulate(self, y: float, velocity: float, left: float) -> np.ndarray:
        """(33, HORIZON): the y coordinate after each tic of each plan."""
        positions = np.empty_like(self._plans)
        place, speed = np.full(len(self._plans), y), np.full(len(self._plans), velocity)
        for tic in range(self.HORIZON):
            speed = speed + left * self.THRUST * self._plans[:, tic]
            place = np.clip(place + speed, *self.WALLS)
            speed = speed * self.FRICTION
            positions[:, tic] = place
        return positions


class Fighter(_PrivilegedPolicy):
    """Battle and battle2: turns to the nearest visible monster and shoots, fetches what it lacks, wanders otherwise.

    It moves sideways while it fights, and wanders in the direction of the nearest monster of the map. It walks to
    visible clips and medikits while ammunition or health is short.
    """

    AIM = 16.0  # map units off the line at which a shot still hits
    FAR = 350.0  # distance at which it walks towards a monster
    LOW_HEALTH, LOW_AMMO = 70.0, 40.0

    def __init__(self, space: Space, env: Any) -> None:
        super().__init__(space, env)
        if not (isinstance(space, MultiDiscrete) and "turn" in env.meta.action_labels):
            raise UserError(f"policy Fighter plays doom/battle and doom/battle2, not {env.meta.id}.")
        self._wanderer = _Wanderer()

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode."""
        super().begin(rng)
        self._wanderer.begin(rng)
        self._strafe, self._strafe_steps = 1, 0

    def act(self, frame: np.ndarray) -> np.ndarray:
        """The action for the current state; the frame is not used."""
        state = self._env.privileged_state()
        wander = self._wanderer.bearing(state, self._nearest_monster(state))
        ammo = state["variables"]["ammo2"]
        monsters = self._visible(state, "Monster")
        if monsters and ammo > 0:
            return self._fight(*min(monsters, key=lambda seen: seen[1]))
        wanted = []
        if ammo < self.LOW_AMMO:
            wanted += self._visible(state, "Ammo")
        if state["variables"]["health"] < self.LOW_HEALTH:
            wanted += self._visible(state, "Health")
        if wanted:
            bearing, _ = min(wanted, key=lambda seen: seen[1] + 2 * abs(seen[0]))
            return self._action(move=abs(bearing) < 30, sprint=abs(bearing) < 15, bearing=bearing)
        return self._action(move=abs(wander) < 60, sprint=abs(wander) < 20, bearing=wander)

    def _fight(self, bearing: float, distance: float) -> np.ndarray:
        if self._strafe_steps == 0:
            self._strafe, self._strafe_steps = int(self._rng.integers(1, 3)), int(self._rng.integers(4, 12))
        self._strafe_steps -= 1
        is_aimed = abs(bearing) < math.degrees(math.atan2(self.AIM, max(distance, 1.0)))
        return self._action(move=distance > self.FAR, strafe=self._strafe, attack=is_aimed, bearing=bearing)

    def _action(
        self, *, move: bool = False, strafe: int = 0, attack: bool = False, sprint: bool = False, bearing: float = 0.0
    ) -> np.ndarray:
        """The action that turns by about a bearing within one step."""
        wanted = -bearing / self._env.meta.frame_skip
        turn = int(np.argmin([abs(degrees - wanted) for degrees in TURNS])) if bearing else NO_TURN
        return np.array([int(move), strafe, int(attack), int(sprint), turn])

    @staticmethod
    def _nearest_monster(state: dict[str, Any]) -> float | None:
        """The bearing of the nearest monster of the map, visible or not."""
        seen = [bearing_and_distance(state, o["position"]) for o in state["objects"] if o["category"] == "Monster"]
        return min(seen, key=lambda pair: pair[1])[0] if seen else None

    @staticmethod
    def _visible(state: dict[str, Any], category: str) -> list[tuple[float, float]]:
        """(bearing, distance) of the visible objects of a category."""
        return [
            bearing_and_distance(state, label["position"]) for label in state["labels"] if label["category"] == category
        ]
