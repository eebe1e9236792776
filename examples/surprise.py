"""What a learned world finds likely, as a reward and as a sign of novelty.

A world is learned from a player who always reaches shelter. Then it is shown clips that it never saw, and says how
likely it finds each frame given those before it and the action:

- `own`: the same player's clips;
- `other actions`: the same frames with the actions of another clip, as if the world had not obeyed;
- `other player`: clips of uniform random play, who is hit by storms, which this world has never seen.

Surprise is minus the log-likelihood. Printed are nats a frame, and how often a clip of the player's own is likelier
than one of the others (0.5 would be chance). Used as a reward, as VIPER does (Escontrela et al. 2023), the likelihood
pays a learner for behaving as the player did, without any reward of the world's own: the last line is the likelihood of
the random player's steps that were hits, beside those that were not.
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
    """Plays the toy well: goes where the last flash was, rows first."""

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


def likelier(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Share of pairs in which the first is likelier: (A,) and (B,)."""
    return float((ours[:, None] > theirs[None]).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("."))
    parser.add_argument("--quick", action="store_true", help="a few steps of everything")
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
    shown, taken, rewards = clips(Dataset(other), None)
    nats = {
        "own": world.log_prob(frames, actions)[:, 1:],  # (B, L-1): the first frame is given nothing
        "other actions": world.log_prob(frames, actions.roll(1, 0))[:, 1:],
        "other player": world.log_prob(shown, taken)[:, 1:],
    }
    for name, said in nats.items():
        beside = "" if name == "own" else f"; own likelier {likelier(nats['own'].sum(1), said.sum(1)):.3f}"
        print(f"{name}: {said.mean():.2f} nats a frame over {len(said)} clips{beside}")

    storms = torch.arange(1, LENGTH) % 4 == 0  # every fourth step a storm strikes
    struck, paid = nats["other player"][:, storms], rewards[:, storms] > 0
    print(f"storms of the other player: {struck[~paid].mean():.2f} nats when hit, {struck[paid].mean():.2f} in shelter")


if __name__ == "__main__":
    main()
