"""Whether the physics of the pushing environment stays sound: no toy leaves the bin, every state is finite, no speed
is out of bounds. Nothing is rendered.

    python benchmarks/push_physics.py --episodes 10000

A quarter of the episodes each plays uniform random actions, the walk, the pushing policy, and corners of the action
space that press the hand into the bin.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from worldmodel.envs.push.push_policies import ReachPolicy, WalkPolicy
from worldmodel.envs.push.scene import CENTRE, HALF, Factors
from worldmodel.envs.push.simulation import Simulation

STEPS = 30
OUTSIDE = HALF + 0.10  # metres from the centre, in x and in y: beyond the sloped walls
HIGHEST, LOWEST = 0.5, -0.01  # metres, centre of mass of a toy
FASTEST = 10.0  # metres per second


class UniformPolicy:
    """Uniform random actions."""

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode."""
        self.rng = rng

    def act(self, frame: Any) -> np.ndarray:
        """The next action."""
        return self.rng.uniform(-1, 1, 4)


class CornerPolicy(UniformPolicy):
    """Full actions, down in 3 of 4 steps, each horizontal direction held for 8 steps: squeezes toys against walls."""

    def act(self, frame: Any) -> np.ndarray:
        """The next action."""
        self.count = getattr(self, "count", -1) + 1
        if self.count % 8 == 0:
            self.direction = self.rng.choice((-1.0, 0.0, 1.0), 2)
        return np.array((*self.direction, 1.0 if self.rng.random() < 0.25 else -1.0, self.rng.choice((-1.0, 1.0))))


def play(seed: int) -> Iterator[tuple[Simulation, bool]]:
    """One episode: the simulation after each step, and whether the gripper touches a toy then."""
    rng = np.random.default_rng(seed)
    goal = seed % 8 >= 4
    simulation = Simulation(seed, Factors(goal, None, "mixed", None, 0.0))
    simulation.settle()
    simulation.refresh()
    state = SimpleNamespace(privileged_state=lambda: poses(simulation))
    policy: Any = (UniformPolicy(), WalkPolicy(None), ReachPolicy(None, state), CornerPolicy())[seed % 4]
    policy.begin(rng)
    for _ in range(STEPS):
        simulation.move(policy.act(None))
        yield simulation, bool(simulation.touched_toys())


def poses(simulation: Simulation) -> dict[str, Any]:
    """The part of the privileged state that the pushing policy uses."""
    goal = simulation.goal()
    return {"hand": simulation.hand(), "toys": simulation.toys(), **({} if goal is None else {"goal": goal})}


def fault(simulation: Simulation) -> str:
    """What is wrong with a state; "" for nothing."""
    data, toys = simulation.data, simulation.toys()
    if not (np.isfinite(data.qpos).all() and np.isfinite(data.qvel).all()):
        return "not finite"
    if any(warning.number for warning in data.warning):
        return "warning of MuJoCo"
    if (np.abs(toys[:, :2] - CENTRE) > OUTSIDE).any() or (toys[:, 2] > HIGHEST).any() or (toys[:, 2] < LOWEST).any():
        return f"toy outside the bin: {toys.round(3).tolist()}"
    speed = fastest(simulation)
    return f"speed {speed:.1f} m/s" if speed > FASTEST else ""


def fastest(simulation: Simulation) -> float:
    """The greatest speed of a toy, m/s."""
    free = simulation.data.qvel[-6 * len(simulation.scene.toys) :].reshape(-1, 6)
    return float(np.linalg.norm(free[:, :3], axis=1).max())


def check(first: int, episodes: int, report: int = 0) -> dict[str, Any]:
    """Play episodes and collect faults.

    Args:
        first: the first seed.
        episodes: number of episodes.
        report: print a line after this many episodes; 0 prints none.

    Returns:
        `episodes`, `steps`, `faults` (list of (seed, step, text)), `fastest` (m/s), `touched` (share of episodes in
        which the gripper touches a toy at the end of a step) by policy, `steps_per_second`.
    """
    faults, greatest, start = [], 0.0, time.perf_counter()
    touched: dict[str, list[bool]] = {"random": [], "walk": [], "reach": [], "corners": []}
    for seed in range(first, first + episodes):
        contact = False
        for step, (simulation, touching) in enumerate(play(seed)):
            contact |= touching
            text = fault(simulation)
            greatest = max(greatest, fastest(simulation))
            if text:
                faults.append((seed, step, text))
                break
        touched[list(touched)[seed % 4]].append(contact)
        if report and (seed - first + 1) % report == 0:
            print(f"{seed - first + 1} episodes, {len(faults)} faults, fastest {greatest:.2f} m/s", flush=True)
    return {
        "episodes": episodes,
        "steps": episodes * STEPS,
        "faults": faults,
        "fastest": greatest,
        "touched": {name: float(np.mean(values)) if values else None for name, values in touched.items()},
        "steps_per_second": episodes * STEPS / (time.perf_counter() - start),
    }


def main() -> None:
    """Parse the command line and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    arguments = parser.parse_args()
    print(json.dumps(check(arguments.first, arguments.episodes, report=500)))


if __name__ == "__main__":
    main()
