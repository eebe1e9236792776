"""Registry rows of the pushing environment. Reading them does not import mujoco."""

from __future__ import annotations

from typing import Any

from worldmodel.envs.env_registry import EnvRow

_POLICIES: dict[str, dict[str, Any]] = {
    "walk": {"entry_point": "worldmodel.envs.push.push_policies:WalkPolicy"},
    "reach": {"entry_point": "worldmodel.envs.push.push_policies:ReachPolicy"},
}
_LABELS = ("forwards", "left", "up", "grip")
_ENTRY_POINT = "worldmodel.envs.push.push_env:PushEnv"
_OBJECTS = "worldmodel.envs.push.push_objects:find_toys"

PUSH_ROWS = (
    EnvRow(
        id="worldmodel/Push-v0",
        name="push",
        entry_point=_ENTRY_POINT,
        action_labels=_LABELS,
        reward="always 0; the variant push/goal has a reward.",
        requires="mujoco",
        policy=_POLICIES,
        objects=_OBJECTS,
    ),
    EnvRow(
        id="worldmodel/PushGoal-v0",
        name="push/goal",
        entry_point=_ENTRY_POINT,
        kwargs={"goal": True},
        action_labels=_LABELS,
        reward="the decrease of the distance from the green toy to the marker, in centimetres.",
        requires="mujoco",
        policy={**_POLICIES, "sac": {"frame_stack": 2}, "ppo": {"frame_stack": 2}},
        objects=_OBJECTS,
    ),
)
