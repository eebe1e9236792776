"""A learned world as an environment. torch is loaded when one of these names is used first."""

from __future__ import annotations

from typing import Any

DREAM_ID = "worldmodel/Dream-v0"
_MODULES = {
    "CEM": "planners",
    "CrossEntropy": "planning",
    "DreamEnv": "dream_env",
    "DreamEvaluator": "plan_evaluators",
    "DreamLearnerEnv": "learner_vec_env",
    "DreamOptions": "dream_options",
    "DreamPlanningPolicy": "planning_policies",
    "DreamVecEnv": "dream_vec_env",
    "DreamVectorEnv": "dream_vector_env",
    "EnvEvaluator": "plan_evaluators",
    "EnvPlanningPolicy": "planning_policies",
    "ICEM": "planners",
    "MPPI": "planners",
    "PLANNERS": "planners",
    "Plan": "planners",
    "Planner": "planners",
    "Rollout": "simulator_state",
    "Simulator": "simulator",
    "SimulatorState": "simulator_state",
    "frame_score": "plan_scores",
    "goal_embedding_mse": "plan_scores",
    "goal_mse": "plan_scores",
    "goal_similarity": "plan_scores",
    "reward_score": "plan_scores",
}


def register() -> None:
    """Register `worldmodel/Dream-v0` with gymnasium, once; torch is not loaded."""
    try:
        import gymnasium
    except ImportError:  # models and training run without gymnasium
        return

    if DREAM_ID not in gymnasium.registry:
        gymnasium.register(
            DREAM_ID,
            entry_point="worldmodel.dream.dream_env:DreamEnv",
            vector_entry_point="worldmodel.dream.dream_vector_env:DreamVectorEnv",
        )


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(f"worldmodel.dream.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
