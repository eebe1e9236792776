"""Registry rows of the environments in this package."""

from __future__ import annotations

from typing import Any

from worldmodel.envs.env_registry import EnvRow, register
from worldmodel.envs.push_rows import PUSH_ROWS

_ARROWS = {
    "left": "ArrowLeft",
    "right": "ArrowRight",
    "up": "ArrowUp",
    "down": "ArrowDown",
    "turn_left": "ArrowLeft",
    "turn_right": "ArrowRight",
    "forward": "ArrowUp",
    "backward": "ArrowDown",
    "attack": " ",
}

_TOY_REWARD = "1 for each storm spent inside the quarter that flashed before it, 0 otherwise."

TOY_ROWS = (
    EnvRow(
        id="worldmodel/Toy-v0",
        name="toy",
        entry_point="worldmodel.envs.toy:ToyEnv",
        action_labels=("stay", "up", "down", "left", "right"),
        keys={label: key for label, key in _ARROWS.items() if label in ("up", "down", "left", "right")},
        reward=_TOY_REWARD,
        policy={
            "periodic": {"actions": [4, 2, 3, 1], "period": 2},
            "ppo": {"frame_stack": 4},
        },
        objects="worldmodel.envs.toy_objects:find_agents",
        opposites=(("up", "down"), ("left", "right")),
    ),
    EnvRow(
        id="worldmodel/ToyContinuous-v0",
        name="toy/continuous",
        entry_point="worldmodel.envs.toy:ToyEnv",
        kwargs={"continuous": True},
        action_labels=("x", "y"),
        reward=_TOY_REWARD,
        policy={
            "periodic": {"actions": [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], "period": 2},
            "ppo": {"frame_stack": 4},
            "sac": {"frame_stack": 4},
        },
        objects="worldmodel.envs.toy_objects:find_agents",
    ),
)


# scenario: buttons in the order of its config file, ViZDoom's own reward, max_steps in steps of 4 tics
_SCENARIOS: dict[str, tuple[tuple[str, ...], str, int]] = {
    "take_cover": (("left", "right"), "1 for each tic (1/35 s) survived.", 525),
    "health_gathering_supreme": (
        ("turn_left", "turn_right", "forward"),
        "1 for each tic (1/35 s) survived, -100 for dying.",
        525,
    ),
    "health_gathering": (
        ("turn_left", "turn_right", "forward"),
        "1 for each tic (1/35 s) survived, -100 for dying.",
        525,
    ),
    "basic": (
        ("left", "right", "attack"),
        "-1 for each tic, -5 for a shot that misses, +106 for the monster.",
        75,
    ),
    "deadly_corridor": (
        ("left", "right", "attack", "forward", "backward", "turn_left", "turn_right"),
        "the distance gained towards the vest in map units (lost: negative), -100 for dying.",
        525,
    ),
    "defend_the_center": (("turn_left", "turn_right", "attack"), "1 for each monster, -1 for dying.", 525),
    "defend_the_line": (("turn_left", "turn_right", "attack"), "1 for each monster, -1 for dying.", 525),
    "my_way_home": (
        ("turn_left", "turn_right", "forward", "left", "right"),
        "+1 for reaching the vest, -0.0001 for each tic.",
        525,
    ),
    "predict_position": (
        ("turn_left", "turn_right", "attack"),
        "+1 for hitting the monster with the rocket, -0.001 for each tic.",
        75,
    ),
}

_SCENARIO_KWARGS: dict[str, dict[str, Any]] = {"take_cover": {"skill": 4}}

# open-loop baselines: right and left in long runs; forward with an occasional turn
_DOOM_POLICY: dict[str, dict[str, dict[str, Any]]] = {
    "take_cover": {"periodic": {"actions": [1, 2], "period": 32}},
    "health_gathering_supreme": {"periodic": {"actions": [1, 1, 1, 2], "period": 4}},
}


def _doom_row(scenario: str) -> EnvRow:
    buttons, reward, max_steps = _SCENARIOS[scenario]
    # one button at a time: ViZDoom's wrapper numbers the buttons from the last in the file to the first
    labels = ("noop", *reversed(buttons))
    return EnvRow(
        id="worldmodel/Doom" + "".join(word.capitalize() for word in scenario.split("_")) + "-v0",
        name="doom/" + scenario.replace("_", "-"),
        entry_point="worldmodel.envs.doom:DoomEnv",
        kwargs={"scenario": scenario, "max_steps": max_steps, **_SCENARIO_KWARGS.get(scenario, {})},
        action_labels=labels,
        keys={label: _ARROWS[label] for label in _labels_with_keys(labels)},
        reward=reward,
        requires="vizdoom",
        policy=_DOOM_POLICY.get(scenario, {}),
    )


def _labels_with_keys(labels: tuple[str, ...]) -> list[str]:
    """Labels that get a key: where a scenario both turns and moves sideways, the arrow keys turn."""
    can_turn = "turn_left" in labels
    return [label for label in labels if label in _ARROWS and not (can_turn and label in ("left", "right"))]


DOOM_ROWS = tuple(_doom_row(scenario) for scenario in _SCENARIOS)


def register_all() -> None:
    """Register every row of this package. `import worldmodel` calls it once."""
    for row in (*TOY_ROWS, *DOOM_ROWS, *PUSH_ROWS):
        register(row)
