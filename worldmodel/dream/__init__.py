"""A learned world as an environment. Nothing here loads torch until one of its names is used."""

from __future__ import annotations

from typing import Any

DREAM_ID = "worldmodel/Dream-v0"
_NAMES = {
    "CrossEntropy": "planning",
    "DreamEnv": "env",
    "DreamLearnerEnv": "learner",
    "DreamVecEnv": "sb3",
    "DreamVectorEnv": "vector",
    "Plan": "planning",
    "Rollout": "state",
    "Simulator": "simulator",
    "SimulatorState": "state",
    "nearness": "planning",
    "paid": "planning",
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
            entry_point="worldmodel.dream.env:DreamEnv",
            vector_entry_point="worldmodel.dream.vector:DreamVectorEnv",
        )


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        from importlib import import_module

        return getattr(import_module(f"worldmodel.dream.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
