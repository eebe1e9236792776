"""Learn the toy world from recordings, learn a policy in its dreams alone, and play the toy with it.

A quarter of the toy lights up for one frame; who stands there four steps later earns 1. Random play returns 1.01, the
best fixed sequence of actions 1.34, the best policy 10.00. Takes some minutes; with --quick it takes seconds, and
learns nothing worth having.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor

from worldmodel import envs
from worldmodel.collect import record
from worldmodel.dream.dream_vec_env import DreamVecEnv
from worldmodel.train import train_world
from worldmodel.train.presets import PRESETS

STACK = 4  # frames that the policy sees: as many as lie between a flash and its storm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("."))
    parser.add_argument("--quick", action="store_true", help="a few steps of everything")
    arguments = parser.parse_args()
    folder, quick = arguments.folder, arguments.quick

    # recordings of the real thing: the policy will never see more of it than this
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

    # a world learned from them
    config = PRESETS["toy"]
    if quick:
        config = replace(
            config,
            train_tokenizer=replace(config.train_tokenizer, num_steps=10, validations=0),
            train_prior=replace(config.train_prior, num_steps=10, validations=0),
        )
    train_world(data, folder / "world", config)

    # a policy learned in its dreams, 32 at once
    dreams = VecMonitor(VecFrameStack(DreamVecEnv(folder / "world", 8 if quick else 32), STACK))
    model = PPO("MlpPolicy", dreams, n_steps=64, batch_size=256, learning_rate=1e-3, gamma=0.97, ent_coef=0.01, seed=0)
    model.learn(512 if quick else 40_000)

    # and the toy itself, on seeds that were never recorded
    real = DummyVecEnv([lambda: envs.make("toy", size=16)])
    real.seed(1_000_000)
    mean, deviation = evaluate_policy(model, VecMonitor(VecFrameStack(real, STACK)), 5 if quick else 100)
    print(f"outside the dream: return {mean:.2f} (deviation {deviation:.2f}); the best fixed sequence returns 1.34")


if __name__ == "__main__":
    main()
