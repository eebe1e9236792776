"""Registry rows of the environments in this package."""

from __future__ import annotations

from worldmodel.envs.doom_rows import DOOM_ROWS
from worldmodel.envs.env_registry import ARROW_KEYS, EnvRow, register
from worldmodel.envs.push_rows import PUSH_ROWS

_SHELTER = {"entry_point": "worldmodel.envs.toy_policies:ShelterPolicy"}
_LADDER = (
    *("shelter", "shelter@0.1", "shelter@0.2", "shelter@0.3", "shelter@0.5", "shelter@0.7", "shelter@0.85"),
    *("periodic:1", "periodic:3", "sticky:0.6"),
)
_TOY_REWARD = "1 for each storm spent inside the quarter that flashed before it, 0 otherwise."

TOY_ROWS = (
    EnvRow(
        id="worldmodel/Toy-v0",
        name="toy",
        entry_point="worldmodel.envs.toy:ToyEnv",
        action_labels=("stay", "up", "down", "left", "right"),
        keys={label: key for label, key in ARROW_KEYS.items() if label in ("up", "down", "left", "right")},
        reward=_TOY_REWARD,
        policy={
            "periodic": {"actions": [4, 2, 3, 1], "period": 2},
            "ppo": {"frame_stack": 4},
            "shelter": _SHELTER,
        },
        objects="worldmodel.envs.toy_objects:find_agents",
        ladder=_LADDER,
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
            "shelter": _SHELTER,
        },
        objects="worldmodel.envs.toy_objects:find_agents",
        ladder=_LADDER,
    ),
)


def register_all() -> None:
    """Register every row of this package. `import worldmodel` calls it once."""
    for row in (*TOY_ROWS, *DOOM_ROWS, *PUSH_ROWS):
        register(row)
