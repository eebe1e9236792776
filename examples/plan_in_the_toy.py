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
import torch

from worldmodel import WorldModel, envs
from worldmodel.collect import record
from worldmodel.collect.policy_evaluation import bootstrap_interval
from worldmodel.dream import CrossEntropy, Simulator
from worldmodel.prior.sampling import Sampling
from worldmodel.train import train_world
from worldmodel.train.presets import PRESETS

PLANS = 128  # rows of the simulator
SEARCH = CrossEntropy(horizon=4, rounds=4, best=0.05, keep=0.2)  # four steps lie between a flash and its storm
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


def play(env: envs.PixelEnv, simulator: Simulator, seed: int) -> float:
    """Play an episode of the toy with the planner; its return."""
    frame, _ = env.reset(seed=seed)
    frames, actions, planned, total, done = [frame], [], [], 0.0, False
    while not done:
        if not planned:
            history = torch.from_numpy(np.stack(frames))[None]  # (1, T, H, W, 3), of which the context takes the last
            context = simulator.world.context(history, torch.tensor(actions, dtype=torch.int64)[None])
            simulator.reset(rows=torch.tensor([0]), context=context)
            planned = SEARCH.plan(simulator, seed=len(actions)).actions.tolist()
        actions.append(planned.pop(0))
        frame, reward, terminated, truncated, _ = env.step(actions[-1])
        frames.append(frame)
        total, done = total + float(reward), terminated or truncated
    return total


def play_at_random(env: envs.PixelEnv, seed: int) -> float:
    """Play an episode of the toy with uniform random actions; its return."""
    env.reset(seed=seed)
    rng, total, done = np.random.default_rng(seed), 0.0, False
    while not done:
        _, reward, terminated, truncated, _ = env.step(rng.integers(5))
        total, done = total + float(reward), terminated or truncated
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("."))
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="only a few steps of each training")
    arguments = parser.parse_args()
    world = train(arguments.folder, arguments.quick)
    simulator = Simulator(world, 8 if arguments.quick else PLANS, sampling=Sampling(top_p=0.9))
    env = envs.make("toy", size=16)
    seeds = range(1_000_000, 1_000_000 + arguments.episodes)  # never recorded
    planned = np.asarray([play(env, simulator, seed) for seed in seeds])
    random = np.asarray([play_at_random(env, seed) for seed in seeds])
    for name, returns in (("planned", planned), ("random", random)):
        for measure, values in (("return", returns), ("success", (returns == STORMS).astype(float))):
            low, high = bootstrap_interval(values)
            print(f"{name}: {measure} {values.mean():.2f} [{low:.2f}, {high:.2f}] of {len(values)} episodes")


if __name__ == "__main__":
    main()
