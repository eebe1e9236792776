"""Train a world of the toy on recordings, train a policy in its dreams alone, and test the policy in the toy.

A quarter of the toy lights up for one frame; whoever stands there four steps later gets a reward of 1. Random play
returns 1.01, the best fixed sequence of actions 1.34, the best policy 10.00. Takes some minutes. With --quick it takes
seconds and the policy is useless.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor

from worldmodel import envs
from worldmodel.collect import record
from worldmodel.dream import DreamVecEnv
from worldmodel.train import train_world
from worldmodel.train.presets import PRESETS

STACK = 4  # frames in an observation: as many as lie between a flash and its storm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("."))
    parser.add_argument("--quick", action="store_true", help="only a few steps of each training")
    arguments = parser.parse_args()
    folder, quick = arguments.folder, arguments.quick

    # recordings of the environment: the policy is trained with no other contact to it
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

    # a world trained on them
    config = PRESETS["toy"]
    if quick:
        config = replace(
            config,
            train_tokenizer=replace(config.train_tokenizer, num_steps=10, validations=0),
            train_prior=replace(config.train_prior, num_steps=10, validations=0),
        )
    train_world(data, folder / "world", config)

    # a policy trained in 32 dreams at once
    dreams = VecMonitor(VecFrameStack(DreamVecEnv(folder / "world", 8 if quick else 32), STACK))
    model = PPO("MlpPolicy", dreams, n_steps=64, batch_size=256, learning_rate=1e-3, gamma=0.97, ent_coef=0.01, seed=0)
    model.learn(512 if quick else 40_000)

    # the toy itself, with seeds that were never recorded
    toy = DummyVecEnv([lambda: envs.make("toy", size=16)])
    toy.seed(1_000_000)
    mean, deviation = evaluate_policy(model, VecMonitor(VecFrameStack(toy, STACK)), 5 if quick else 100)
    print(f"in the environment: return {mean:.2f} (deviation {deviation:.2f}); the best fixed sequence returns 1.34")


if __name__ == "__main__":
    main()
