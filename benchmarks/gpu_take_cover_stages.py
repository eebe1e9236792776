"""The stages of gpu_take_cover.py: worlds of several seeds, policies of several seeds in the dreams of each."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gpu_sizes import TINY
from gpu_world_sizes import WORLDS, WorldSizes
from gpu_world_stages import WorldStages

TEST_SEED = 1_100_000  # 300 seeds that no other result has used
MINUTES = {"record": 1.6, "tokenizer": 1.0, "prior": 2.6, "policy": 1.6}  # budgets of a stage
TEST_MINUTES = 0.7  # 300 episodes of each policy on 15 processes
LOOKAHEAD_EPISODES, LOOKAHEAD_MINUTES = 75, 4.0  # some 40 s of a core each, on 15 processes
LADDER_MINUTES = 1.0
REHEARSAL_SECONDS = 1.0  # that a stage of the rehearsal must have left

TAKE_COVER = replace(
    WORLDS["take-cover"],
    recording="take-cover-coverage",
    learner=replace(WORLDS["take-cover"].learner, num_envs=256, rollout_steps=32, batch_size=1024, learning_rate=7e-4),
    test_episodes=300,
)
TINY_TAKE_COVER = WorldSizes(
    **{name: getattr(TINY, name) for name in TINY.__dataclass_fields__}, baselines=("random", "periodic")
)


@dataclass
class TakeCoverStages(WorldStages):
    """The stages of the run; each works in the folder of its world and of its policy."""

    def seconds(self, stage: str) -> float:
        """The budget of a stage, whatever the time of the command is."""
        return MINUTES[stage] * 60 if self.is_real else 2 * REHEARSAL_SECONDS

    @property
    def is_real(self) -> bool:
        """Whether this is no rehearsal."""
        return self.sizes.scale == TAKE_COVER.scale

    def run_all(self, num_worlds: int, num_policies: int) -> list[str]:
        """Run every stage that the time of this command allows, the most valuable first; the names of all."""
        minute = self.sizes.scale
        plan: list[tuple[str, Any, list[str], float]] = [
            ("record", self.record, [], MINUTES["record"]),
            ("baselines", self.baselines, ["record"], TEST_MINUTES),
            ("tokenizer", self.tokenizer, ["record"], MINUTES["tokenizer"]),
        ]
        for world in range(num_worlds):
            plan.append((f"world-{world}", partial(self.train_world, world), ["tokenizer"], MINUTES["prior"]))
            plan.append((f"ladder-{world}", partial(self.ladder, world), [f"world-{world}"], LADDER_MINUTES))
            for policy in range(num_policies):
                name = f"policy-{world}-{policy}"
                learn = partial(self.train_policy_of, world, policy)
                plan.append((name, learn, [f"world-{world}"], MINUTES["policy"]))
                plan.append((f"test-{world}-{policy}", partial(self.test_policy, world, policy), [name], TEST_MINUTES))
            ahead, first = partial(self.look_ahead, world), f"test-{world}-0"
            plan.append((f"lookahead-{world}", ahead, [first], LOOKAHEAD_MINUTES))
        for name, work, needs, minutes in plan:
            self.run.stage(name, work, needs, minutes * minute if self.is_real else REHEARSAL_SECONDS)
        return [name for name, *_ in plan]

    def world_folder(self, world: int) -> Path:
        """The directory of a world."""
        return self.work / f"world-{world}"

    def train_world(self, world: int) -> dict[str, Any]:
        """A prior of the seed `world` on the codes of the one tokenizer."""
        figures = self._prior(replace(self.config, seed=world), self.world_folder(world), self.seconds("prior") / 60)
        if world == 0:
            self.world_path = self.world_folder(0)
            self.world_files()
        return figures

    def ladder(self, world: int) -> dict[str, Any]:
        """Policies that no recording contains, in the dream and in the real game; and permanence."""
        from worldmodel.cli.eval_ladder import ladder_of
        from worldmodel.cli.eval_world import policies_of, rules_of
        from worldmodel.metrics import EvaluationSettings, evaluate, table

        model = self.world(self.world_folder(world))
        with self.data() as data:
            metrics = ("ladder", "permanence", "nats") if self.is_real else ("nats",)
            settings = EvaluationSettings(metrics=metrics, **dict(self.sizes.evaluation))
            policies = ladder_of(model, data.header.policies) if self.is_real else ()
            result = evaluate(model, data, policies_of(data), settings, rules=rules_of(model.spec.env), ladder=policies)
        print(table(result), flush=True)
        return result

    def train_policy_of(self, world: int, policy: int) -> dict[str, Any]:
        """PPO of the seed `policy` in the dreams of a world."""
        from worldmodel.collect.collect_config import TrainPolicy
        from worldmodel.collect.env_options import EnvOptions
        from worldmodel.collect.policy_training import train_policy

        learner = replace(self.sizes.learner, minutes=self.seconds("policy") / 60)
        out = self.policy_folder(world, policy)
        options = EnvOptions(**dict(self.sizes.env_kwargs))
        config = TrainPolicy(
            out, self.sizes.env, policy, options, learner=learner, world=self.world_folder(world), test_episodes=0,
            device=self.device,
        )  # fmt: skip
        shutil.copyfile(train_policy(config), self.run.out / "policy.zip")
        return json.loads((out / "policy.json").read_text())["result"]

    def policy_folder(self, world: int, policy: int) -> Path:
        """The directory of a policy."""
        return self.work / f"policy-{world}-{policy}"

    def test_policy(self, world: int, policy: int) -> dict[str, Any]:
        """Returns of a policy on the test seeds of the real game."""
        return self._play({"policy": str(self.policy_folder(world, policy))})

    def look_ahead(self, world: int) -> dict[str, Any]:
        """Returns of the first policy of a world where it compares its actions in dreams before each decision."""
        text = f"lookahead:{self.policy_folder(world, 0)}:{self.world_folder(world)}"
        return self._play({"policy with lookahead": text}, min(LOOKAHEAD_EPISODES, self.sizes.test_episodes))

    def baselines(self) -> dict[str, Any]:
        """Returns of the scripted policies on the same seeds."""
        return self._play({name: name for name in self.sizes.baselines})

    def _play(self, policies: dict[str, str], episodes: int | None = None) -> dict[str, Any]:
        from worldmodel import envs
        from worldmodel.collect.policy_evaluation import evaluate, format_table
        from worldmodel.collect.policy_specs import parse_policy

        with self.data() as data:
            space = data.header.action_space
        defaults = envs.policy_defaults(self.sizes.env)
        specs = {label: parse_policy(text, space, defaults) for label, text in policies.items()}
        kwargs = dict(self.sizes.env_kwargs)
        episodes = episodes or self.sizes.test_episodes
        rows = evaluate(specs, self.sizes.env, kwargs, episodes, TEST_SEED, self.workers)
        print(format_table(rows), flush=True)
        return {"env": self.sizes.env, "first_seed": TEST_SEED, "rows": rows}

    def summary(self, num_worlds: int, num_policies: int) -> dict[str, Any]:
        """Mean return over all runs with an interval over runs, and each baseline minus it."""
        stages = self.run.result["stages"]
        rows = {
            (world, policy): stages[f"test-{world}-{policy}"]["figures"]["rows"][0]["returns"]
            for world in range(num_worlds)
            for policy in range(num_policies)
        }
        means = np.asarray([np.mean(values) for values in rows.values()])
        baselines = {row["policy"]: float(np.mean(row["returns"])) for row in stages["baselines"]["figures"]["rows"]}
        spread = float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else None
        return {
            "runs": {f"{world}-{policy}": float(np.mean(values)) for (world, policy), values in rows.items()},
            "mean": float(means.mean()),
            "standard_error_over_runs": spread,
            "baselines": baselines,
        }
