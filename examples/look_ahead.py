"""Train a policy for seconds in the dreams of the shipped toy, and test it in the toy, alone and with lookahead.

With lookahead it compares its actions in a few dreams before each decision. Random play returns 1.01, the best policy
10.00.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from worldmodel.collect.collect_config import TrainPolicy
from worldmodel.collect.env_options import EnvOptions
from worldmodel.collect.learner_config import dream_learner_config
from worldmodel.collect.lookahead_spec import LookaheadConfig
from worldmodel.collect.policy_evaluation import evaluate
from worldmodel.collect.policy_specs import describe_policy_file
from worldmodel.collect.policy_training import train_policy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("."))
    arguments = parser.parse_args()

    learner = replace(dream_learner_config("toy"), decisions=6000)
    toy = EnvOptions(size=(16, 16))
    config = TrainPolicy(arguments.folder / "policy", "toy", 0, toy, learner, world=Path("toy"), test_episodes=0)
    policy = train_policy(config)

    ahead = LookaheadConfig("toy")
    policies = {"alone": describe_policy_file(policy), "lookahead": describe_policy_file(policy, lookahead=ahead)}
    for row in evaluate(policies, "toy", toy.kwargs(), 20, 1_000_000, workers=1):
        print("{policy}: return {return_mean:.2f} [{low:.2f}, {high:.2f}]".format(**row))


if __name__ == "__main__":
    main()
