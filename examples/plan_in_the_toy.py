"""Plan in a learned world of the toy and act in the toy itself, without a learned policy.

A quarter of the toy lights up for one frame; whoever stands there four steps later gets a reward of 1, anyone else
loses one of three lives. The planner takes the last frames as context, dreams plans up to the next storm, executes the
best and plans again. Uniform random play returns 1.01, the best fixed sequence of actions 1.34, the best policy 10.00.
An episode is a success if the player is in shelter at every storm. Takes some minutes. With --quick it takes seconds
and the world is useless.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from worldmodel import WorldModel, envs
from worldmodel.collect import record
from worldmodel.collect.policies import Policy, RandomPolicy
from worldmodel.collect.policy_evaluation import bootstrap_interval
from worldmodel.collect.rollout import play
from worldmodel.dream import CEM, DreamPlanningPolicy, Simulator
from worldmodel.prior.sampling import Sampling
from worldmodel.train import train_world
from worldmodel.train.presets import PRESETS

# four steps are between a flash and its storm
PLANNER = CEM(horizon=4, candidates=128, rounds=4, elite_fraction=0.05, momentum=0.2)
STORMS = 10  # in an episode without a termination


def train(folder: Path, quick: bool) -> WorldModel:
    """Record the toy and train its world, unless the folder has one already."""
    if (folder / "world").exists():
        return WorldModel.from_pretrained(folder / "world")
    data = record(
        "toy",
        "sticky",
        folder / "toy.h5",
        episodes=60 if quick else 3000,
        seed=3,
        mix_with="random=0.4",
        size=16,
        progress=False,
    )
    config = PRESETS["toy"]
    if quick:
        config = replace(
            config,
            train_tokenizer=replace(config.train_tokenizer, num_steps=10, validations=0),
            train_prior=replace(config.train_prior, num_steps=10, validations=0),
        )
    return train_world(data, folder / "world", config)


def play_returns(env: envs.PixelEnv, policy: Policy, seeds: range) -> np.ndarray:
    """Returns of the episodes of some seeds: (N,)."""
    episodes = [play(env, policy, index=seed, seed=0, policy_name="policy", env_seed=seed) for seed in seeds]
    return np.asarray([episode.rewards.sum() for episode in episodes])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("."))
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="only a few steps of each training")
    arguments = parser.parse_args()
    world = train(arguments.folder, arguments.quick)
    planner = replace(PLANNER, candidates=8) if arguments.quick else PLANNER
    simulator = Simulator(world, planner.candidates, sampling=Sampling(top_p=0.9))
    env = envs.make("toy", size=16)
    seeds = range(1_000_000, 1_000_000 + arguments.episodes)  # never recorded
    planned = play_returns(env, DreamPlanningPolicy(simulator, planner, replan_every=planner.horizon), seeds)
    random = play_returns(env, RandomPolicy(env.meta.action_space), seeds)
    for name, returns in (("planned", planned), ("random", random)):
        for measure, values in (("return", returns), ("success", (returns == STORMS).astype(float))):
            low, high = bootstrap_interval(values)
            print(f"{name}: {measure} {values.mean():.2f} [{low:.2f}, {high:.2f}] of {len(values)} episodes")


if __name__ == "__main__":
    main()
