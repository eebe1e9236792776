"""Registry rows of ViZDoom's scenarios, and of battle and battle2."""

from __future__ import annotations

from typing import Any

from worldmodel.envs.doom_battle import ACTION_LABELS, MAP_ASSETS, NO_TURN, TURNS
from worldmodel.envs.env_registry import ARROW_KEYS, EnvRow

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

_POLICIES = "worldmodel.envs.doom_policies:"
_SEEKER = {"entry_point": _POLICIES + "MedikitSeeker"}
_GATHERING_PERIODIC = {"actions": [1, 1, 1, 2], "period": 4}

# `periodic` is the open-loop baseline: right and left in long runs; forward with an occasional turn
_DOOM_POLICY: dict[str, dict[str, dict[str, Any]]] = {
    "take_cover": {
        "periodic": {"actions": [1, 2], "period": 32},
        "dodger": {"entry_point": _POLICIES + "FireballDodger"},
    },
    "health_gathering_supreme": {"periodic": _GATHERING_PERIODIC, "seeker": _SEEKER},
    "health_gathering": {"periodic": _GATHERING_PERIODIC, "seeker": _SEEKER},
}

_OBJECTS = ("take_cover", "health_gathering", "health_gathering_supreme", *MAP_ASSETS)  # have a rule of doom_objects

_OPPOSITES: dict[str, tuple[tuple[str, str], ...]] = {
    "take_cover": (("left", "right"),),
    "health_gathering": (("turn_left", "turn_right"),),
    "health_gathering_supreme": (("turn_left", "turn_right"),),
    **dict.fromkeys(MAP_ASSETS, (("turn=0", f"turn={len(TURNS) - 1}"), ("strafe=1", "strafe=2"))),
}

# around 11, 14, 17 and 24: open-loop play that no recording should contain
_RESERVED_PERIODS: dict[str, tuple[int, ...]] = {"take_cover": (10, 11, 12, 13, 14, 15, 16, 17, 18, 23, 24, 25)}


def _doom_row(scenario: str) -> EnvRow:
    buttons, reward, max_steps = _SCENARIOS[scenario]
    # one button at a time: ViZDoom's wrapper numbers the buttons from the last in the file to the first
    labels = ("noop", *reversed(buttons))
    return EnvRow(
        id=_row_id(scenario),
        name="doom/" + scenario.replace("_", "-"),
        entry_point="worldmodel.envs.doom:DoomEnv",
        kwargs={"scenario": scenario, "max_steps": max_steps, **_SCENARIO_KWARGS.get(scenario, {})},
        action_labels=labels,
        keys={label: ARROW_KEYS[label] for label in _labels_with_keys(labels)},
        reward=reward,
        requires="vizdoom",
        policy=_DOOM_POLICY.get(scenario, {}),
        objects=_objects(scenario),
        opposites=_OPPOSITES.get(scenario, ()),
        reserved_periods=_RESERVED_PERIODS.get(scenario, ()),
    )


def _row_id(scenario: str) -> str:
    return "worldmodel/Doom" + "".join(word.capitalize() for word in scenario.split("_")) + "-v0"


def _objects(scenario: str) -> str:
    return f"worldmodel.envs.doom_objects:{scenario}_objects" if scenario in _OBJECTS else ""


def _labels_with_keys(labels: tuple[str, ...]) -> list[str]:
    """Labels that get a key: where a scenario both turns and moves sideways, the arrow keys turn."""
    can_turn = "turn_left" in labels
    return [label for label in labels if label in ARROW_KEYS and not (can_turn and label in ("left", "right"))]


def _battle_row(scenario: str) -> EnvRow:
    """A row of battle or battle2. The open-loop baseline shoots while it walks in a circle, in battle sideways."""
    circle = [0, 1, 1, 1, NO_TURN - 1] if scenario == "battle" else [1, 0, 1, 0, NO_TURN + 1]
    return EnvRow(
        id=_row_id(scenario),
        name="doom/" + scenario,
        entry_point="worldmodel.envs.doom:DoomEnv",
        kwargs={"scenario": scenario, "max_steps": 525, "skill": 2, "reward": "kills"},
        action_labels=ACTION_LABELS,
        reward="1 for each monster killed.",
        requires="vizdoom",
        policy={
            "periodic": {"actions": [circle], "period": 8},
            "fighter": {"entry_point": _POLICIES + "Fighter"},
        },
        objects=_objects(scenario),
        opposites=_OPPOSITES[scenario],
    )


DOOM_ROWS = (*(_doom_row(scenario) for scenario in _SCENARIOS), *(_battle_row(name) for name in MAP_ASSETS))
