"""Register your own environment, record it, and inspect the dataset."""

import sys
from pathlib import Path

import gymnasium
import numpy as np

from worldmodel.collect import record
from worldmodel.data import Dataset
from worldmodel.envs import EnvRow, register


class Corridor(gymnasium.Env):
    """A light moves left and right; reaching the right end of the corridor earns 1 and terminates."""

    observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.column = int(self.np_random.integers(4))
        return self.picture(), {}

    def step(self, action):
        self.column = max(0, self.column + (1 if action else -1))
        done = self.column == 7
        return self.picture(), float(done), done, False, {}

    def picture(self):
        frame = np.zeros((64, 64, 3), np.uint8)
        frame[24:40, 8 * self.column : 8 * self.column + 8] = (250, 200, 60)
        return frame


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    register(EnvRow(id="examples/Corridor-v0", name="corridor", entry_point=Corridor))
    path = record("corridor", "sticky", folder / "corridor.h5", episodes=10, max_steps=40, progress=False)
    with Dataset(path) as data:
        print(f"{data.num_episodes} episodes, {data.num_steps} steps, splits {data.split_counts}")
        print("returns:", [float(episode.rewards.sum()) for episode in data.episodes_iter()])
