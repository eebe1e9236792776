"""Your own loop in ten lines: record, learn the world, learn a policy in its dreams, test it outside; then again with
the recordings of that policy.

`worldmodel loop` does the same for any environment, and more (docs/guides/loop.md). The environment is the toy: random
play returns 1.01, the best policy 10.00. Every call continues what an interrupted program has begun. Takes some
minutes. With --quick it takes seconds and the policies are useless.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from worldmodel.collect import record
from worldmodel.collect.collect_config import EvalPolicy, TrainPolicy
from worldmodel.collect.eval_policy_command import eval_policy
from worldmodel.collect.learner_config import LearnerConfig, dream_learner_config
from worldmodel.collect.policy_training import train_policy
from worldmodel.train import train_world
from worldmodel.train.presets import PRESETS
from worldmodel.train.training_config import WorldConfig

MIX = "random=0.4"  # the share of random play in each recording


def dream_loop(folder: Path, config: WorldConfig, learner: LearnerConfig, episodes: int, tests: int) -> None:
    """Two rounds; the second continues the world on all recordings, and the policy."""
    data, policy, world = [], None, None
    for n in (1, 2):
        out = folder / f"round-{n}"
        data += [record("toy", policy or "sticky", out / "data.h5", episodes=episodes, seed=n, mix_with=MIX, size=16)]
        train_world(data, out / "world", config, init_from=world)
        world = out / "world"
        training = TrainPolicy(out / "policy", learner=learner, world=world, init_from=policy, test_episodes=0)
        policy = train_policy(training)
        eval_policy(EvalPolicy((str(policy), "random"), world=world, episodes=tests, first_seed=2_000_000))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("."))
    parser.add_argument("--quick", action="store_true", help="only a few steps of each training")
    arguments = parser.parse_args()
    config, learner = PRESETS["toy"], replace(dream_learner_config("toy"), decisions=40_000)
    if arguments.quick:
        config = replace(
            PRESETS["tiny"],
            train_tokenizer=replace(PRESETS["tiny"].train_tokenizer, num_steps=10, validations=0),
            train_prior=replace(PRESETS["tiny"].train_prior, num_steps=10, validations=0),
        )
        learner = replace(learner, decisions=64, num_envs=4, rollout_steps=8, epochs=1, width=4)
    dream_loop(arguments.folder, config, learner, *((20, 2) if arguments.quick else (1000, 100)))
