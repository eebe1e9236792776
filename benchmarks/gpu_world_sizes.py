"""The worlds of gpu_worlds.py, and what differs in their rehearsal on the toy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gpu_sizes import TINY, Sizes

from worldmodel.collect.collect_config import Collect
from worldmodel.collect.learner_config import LearnerConfig, learner_config


@dataclass(frozen=True)
class PlanSizes:
    """A planner in the dream and in the true simulator, on the same seeds.

    Attributes:
        options: flags of `worldmodel eval plan`, name -> value.
        baselines: policies to compare with.
        episodes: of each process.
    """

    options: tuple[tuple[str, Any], ...] = (
        *(("planner", "icem"), ("horizon", 8), ("candidates", 64), ("rounds", 3), ("replan-every", 3)),
        ("success", "distance<0.04"),
    )
    baselines: tuple[str, ...] = ("random", "walk", "reach")
    episodes: int = 2


@dataclass(frozen=True)
class WorldSizes(Sizes):
    """Sizes of the run of one world.

    Attributes:
        recording: the preset of `worldmodel collect` whose mixture of policies is recorded.
        baselines: policies that the trained policy is compared with in the real game.
        plan: the planner; None if the environment has no goal or cannot return to a saved state.
    """

    recording: str = ""
    baselines: tuple[str, ...] = ("random", "periodic")
    plan: PlanSizes | None = None


def real_learner(env: str) -> LearnerConfig:
    """Settings of PPO in an environment, on many cores and a GPU."""
    return replace(learner_config(env), algo="ppo", batch_size=512, decisions=10**9)


def _sizes(recording: str, preset: str, baseline: str, plan: PlanSizes | None = None) -> WorldSizes:
    env = Collect.PRESETS[recording].env
    return WorldSizes(
        env=env,
        preset=preset,
        recording=recording,
        learner=real_learner(env),
        test_episodes=100,
        baselines=("random", "periodic", baseline),
        plan=plan,
    )


WORLDS: dict[str, WorldSizes] = {
    "take-cover": _sizes("take-cover-coverage", "doom-take-cover-gpu", "dodger"),
    "hgs": _sizes("health-gathering-supreme-mixed", "doom-hgs-gpu", "seeker"),
    "battle2": _sizes("battle2-mixed", "doom-battle2-gpu", "fighter"),
    "push": _sizes("push-mixed", "push-gpu", "reach", PlanSizes()),
}

TINY_PLAN = PlanSizes(
    (
        ("planner", "cem"),
        ("horizon", 3),
        ("candidates", 8),
        ("rounds", 2),
        ("replan-every", 3),
        ("success", "return>0"),
    ),
    ("random",),
)


def tiny(world: str) -> WorldSizes:
    """The rehearsal of a world, on the toy."""
    sizes = {name: getattr(TINY, name) for name in TINY.__dataclass_fields__}
    sizes["evaluation"] = (*TINY.evaluation, ("inverse_steps", 4))
    return WorldSizes(**sizes, plan=TINY_PLAN if WORLDS[world].plan is not None else None)
