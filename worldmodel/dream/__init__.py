"""A learned world as an environment. Nothing here loads torch until one of its names is used."""

from __future__ import annotations

from typing import Any

DREAM_ID = "worldmodel/Dream-v0"
_NAMES = {
    "CrossEntropy": "planning",
    "DreamEnv": "dream_env",
    "DreamLearnerEnv": "learner_vec_env",
    "DreamVecEnv": "dream_vec_env",
    "DreamVectorEnv": "dream_vector_env",
    "Plan": "planning",
    "Rollout": "simulator_state",
    "Simulator": "simulator",
    "SimulatorState": "simulator_state",
    "goal_similarity": "planning",
    "reward_score": "planning",
}


def register() -> None:
    """Register `worldmodel/Dream-v0` with gymnasium; needs no torch, and may be called again."""
    try:
        import gymnasium
    except ImportError:  # models and training run on machines without it
        return

    if DREAM_ID not in gymnasium.registry:
        gymnasium.register(
            DREAM_ID,
            entry_point="worldmodel.dream.dream_env:DreamEnv",
            vector_entry_point="worldmodel.dream.dream_vector_env:DreamVectorEnv",
        )


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        from importlib import import_module

        return getattr(import_module(f"worldmodel.dream.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
