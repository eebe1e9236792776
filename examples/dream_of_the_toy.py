"""Record the toy, train a tiny world and step it as an environment. Takes half a minute."""

import sys
from pathlib import Path

import gymnasium

import worldmodel
from worldmodel.collect import record
from worldmodel.train.presets import PRESETS
from worldmodel.train.trainers import train_world

if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    data = record("toy", "sticky", folder / "toy.h5", episodes=40, progress=False)
    train_world(data, folder / "toy-world", PRESETS["tiny"])
    env = gymnasium.make(worldmodel.DREAM_ID, world=str(folder / "toy-world"), render_mode="rgb_array")
    frame, info = env.reset(seed=0)
    total = 0.0
    for _ in range(20):
        frame, reward, terminated, truncated, info = env.step(env.action_space.sample())
        total += float(reward)
        if terminated or truncated:
            frame, info = env.reset()
    print(f"20 dreamed steps of frames {frame.shape}, return {total:.2f}")
