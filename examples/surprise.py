"""The likelihood of frames under a learned world, as a reward and as a measure of novelty.

A world is trained on a player who always reaches shelter. It then evaluates the log-likelihood of clips that it was not
trained on, each frame given the frames and actions before it:

- `own`: clips of the same player;
- `other actions`: the same frames with the actions of another clip, as if the environment had ignored them;
- `other player`: clips of uniform random play, with hits by storms, which the training data does not have.

Surprise is minus the log-likelihood. The script prints nats per frame, and how often a clip of the player is likelier
than one of the others (0.5 is chance). Used as a reward, as VIPER does (Escontrela et al. 2023), the likelihood rewards
a policy for behaving like the player, without the environment's own reward: the last line compares the likelihood of
the random player's steps with a hit to those in shelter.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from worldmodel import WorldModel
from worldmodel.collect import record
from worldmodel.data import Dataset
from worldmodel.train import train_world
from worldmodel.train.presets import PRESETS

LENGTH = 9  # frames of a clip: two storms
STAY, UP, DOWN, LEFT, RIGHT = range(5)


class Sheltered:
    """Plays the toy well: goes to the last flash, first to its row."""

    def begin(self, rng: np.random.Generator) -> None:
        self.goal = (0.0, 0.0)

    def act(self, frame: np.ndarray) -> int:
        red, green, blue = np.moveaxis(frame, -1, 0)
        half = len(frame) / 2
        if (blue > 200).any():  # a quarter is lit
            rows, columns = np.nonzero(blue > 200)
            self.goal = (rows.mean() >= half, columns.mean() >= half)
        rows, columns = np.nonzero((red > 200) | (green > 180))  # the walker
        down, right = rows.mean() >= half, columns.mean() >= half
        if down != self.goal[0]:
            return DOWN if self.goal[0] else UP
        if right != self.goal[1]:
            return RIGHT if self.goal[1] else LEFT
        return STAY


def clips(data: Dataset, split: str | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The first clip of LENGTH frames of every episode: frames (B, L, H, W, 3), actions and rewards (B, L-1)."""
    long = [e for e in data.episodes_iter(split) if e.length >= LENGTH - 1]
    frames = np.stack([e.frames[:LENGTH] for e in long])
    actions, rewards = ([getattr(e, name)[: LENGTH - 1] for e in long] for name in ("actions", "rewards"))
    return torch.from_numpy(frames), torch.from_numpy(np.stack(actions)), torch.from_numpy(np.stack(rewards))


def fraction_likelier(first: torch.Tensor, second: torch.Tensor) -> float:
    """Fraction of pairs in which the first log-likelihood is higher: (A,) and (B,)."""
    return float((first[:, None] > second[None]).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("."))
    parser.add_argument("--quick", action="store_true", help="only a few steps of each training")
    arguments = parser.parse_args()
    folder, quick = arguments.folder, arguments.quick

    settings = {"size": 16, "progress": False}
    player = record("toy", Sheltered(), folder / "player.h5", episodes=20 if quick else 300, seed=1, **settings)
    other = record("toy", "random", folder / "other.h5", episodes=20 if quick else 150, seed=2, **settings)
    config = PRESETS["toy"]
    train_world(
        player,
        folder / "players-world",
        replace(
            config,
            train_tokenizer=replace(config.train_tokenizer, num_steps=10 if quick else 400, validations=0),
            train_prior=replace(config.train_prior, num_steps=10 if quick else 600, validations=0),
        ),
    )
    world = WorldModel.from_pretrained(folder / "players-world")

    frames, actions, _ = clips(Dataset(player), "test")
    other_frames, other_actions, rewards = clips(Dataset(other), None)
    nats = {
        "own": world.log_prob(frames, actions)[:, 1:],  # (B, L-1): the first frame has no condition
        "other actions": world.log_prob(frames, actions.roll(1, 0))[:, 1:],
        "other player": world.log_prob(other_frames, other_actions)[:, 1:],
    }
    for name, values in nats.items():
        fraction = fraction_likelier(nats["own"].sum(1), values.sum(1))
        comparison = "" if name == "own" else f"; own likelier {fraction:.3f}"
        print(f"{name}: {values.mean():.2f} nats per frame over {len(values)} clips{comparison}")

    storms = torch.arange(1, LENGTH) % 4 == 0  # every fourth step has a storm
    storm_nats, in_shelter = nats["other player"][:, storms], rewards[:, storms] > 0
    hit, sheltered = storm_nats[~in_shelter].mean(), storm_nats[in_shelter].mean()
    print(f"storms of the other player: {hit:.2f} nats when hit, {sheltered:.2f} in shelter")


if __name__ == "__main__":
    main()
