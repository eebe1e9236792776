"""One dream of 2,000 steps as a contact sheet: it must neither freeze nor fill up.

    python examples/long_dream.py doom-take-cover-small long-dream.png

Uniform actions, each held for some steps, in a world whose ends are switched off, so that nothing begins anew. The
sheet shows a frame in every ten, row by row. Printed are, for each tenth of the dream, the mean change from frame to
frame, the share of bright pixels, and how surprised the world is by what it draws.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from worldmodel import WorldModel
from worldmodel.cli.videos import frame_strips
from worldmodel.dream import Simulator

COLUMNS, HELD, BRIGHT = 20, 8, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    arguments = parser.parse_args()
    steps = arguments.steps
    torch.set_num_threads(1)
    world = WorldModel.from_pretrained(arguments.world)
    world.prior.heads.end_shift.fill_(-200.0)  # log-odds of an end
    simulator, rng = Simulator(world, 1, seed=0, backend="torch"), np.random.default_rng(0)
    simulator.reset()
    frames, surprise = [], []
    for t in range(steps):
        if t % HELD == 0:
            action = torch.from_numpy(np.asarray(world.spec.action_space.sample(rng)))[None]
        out = simulator.step(action)
        frames.append(out.frames[0].numpy())
        surprise.append(-float(out.log_probs[0]) / out.codes[0].numel())
    dream = np.stack(frames)  # (T, H, W, 3)
    change = np.abs(np.diff(dream.astype(np.int16), axis=0)).mean((1, 2, 3))
    bright = (dream.max(-1) > BRIGHT).mean((1, 2))
    print("steps           change, levels  bright pixels  surprise, nats a code")
    for part in np.array_split(np.arange(steps - 1), 10):
        found = change[part].mean(), bright[part].mean(), np.asarray(surprise)[part].mean()
        print("{:5d} to {:5d}  {:14.2f}  {:13.5f}  {:21.2f}".format(part[0], part[-1] + 1, *found))
    shown = dream[:: max(1, steps // 200)]
    rows = [(f"{i * max(1, steps // 200)}", shown[i : i + COLUMNS]) for i in range(0, len(shown), COLUMNS)]
    arguments.picture.write_bytes(frame_strips(rows, scale=1))


if __name__ == "__main__":
    main()
