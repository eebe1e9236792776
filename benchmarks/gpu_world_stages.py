"""The stages of gpu_worlds.py that differ from those of gpu_stages.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gpu_stages import Stages
from gpu_world_sizes import WorldSizes

SHARES = {"record": 0.13, "tokenizer": 0.16, "prior": 0.5}  # of the minutes
POLICY_SHARES = {"tokenizer": 0.13, "policy": 0.2, "prior": 0.31}  # with --policy
PLAN_SHARE = 0.16  # taken from the prior's
RESERVED = 5.0  # seconds for what follows the plans


@dataclass
class WorldStages(Stages):
    """The stages of one world; `with_policy` keeps time for PPO in the real game."""

    sizes: WorldSizes
    with_policy: bool = False

    policy_title = "return of PPO in the real game"

    @property
    def shares(self) -> dict[str, float]:
        """Share of the minutes of each stage with a budget; the rest is for evaluation, speed and pictures."""
        shares = SHARES | (POLICY_SHARES if self.with_policy else {})
        if self.sizes.plan is not None:
            shares |= {"prior": shares["prior"] - PLAN_SHARE, "plan": PLAN_SHARE}
        return shares

    def mixture(self, space: Any) -> tuple[Any, ...]:
        """The mixture of the world's preset of `worldmodel collect`, with its scripted policy."""
        from worldmodel.collect.collect_arguments import parse_mix
        from worldmodel.collect.collect_config import Collect

        if not self.sizes.recording:
            return super().mixture(space)
        preset = Collect.PRESETS[self.sizes.recording]
        return self.mixed_policies(preset.policy, parse_mix(preset.mix), space, preset.epsilon)

    def policy(self) -> dict[str, Any]:
        """PPO trained in the real game, one environment on each core that records."""
        return self.train_policy(replace(self.sizes.learner, num_envs=self.workers), None)

    def test(self) -> dict[str, Any]:
        """That policy on test seeds, compared with random, periodic and scripted play."""
        return self.compare("ppo", self.sizes.baselines)

    def evaluate(self) -> dict[str, Any]:
        """Every metric, also those that train an inverse dynamics model."""
        return self._evaluate(self.world_path, ("all",))

    def plan(self) -> dict[str, Any]:
        """The planner in the dream, in the true simulator, and policies, on the same test seeds."""
        from gpu_plan import run_plans

        from worldmodel.cli.eval_plan import format_plan_table

        sizes = self.sizes.plan
        assert sizes is not None
        # processes start slowly, so that a rehearsal needs more than its share
        seconds = min(max(self.seconds("plan"), 60.0), self.run.seconds_left - RESERVED)
        rows = run_plans(
            self.world_path, sizes.options, sizes.baselines, sizes.episodes, self.workers, self.work / "plan",
            self.runtime.device.type, seconds,
        )  # fmt: skip
        print(format_plan_table(rows), flush=True)
        return {"options": dict(sizes.options), "rows": rows}
