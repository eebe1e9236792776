"""A GIF of one policy in its environment (above) and in a dream of a world (below).

    python benchmarks/policy_gif.py runs/dreamer doom-take-cover-small --out policy.gif

Both begin with --seed. Every --every-th frame is shown, until both have ended or --frames are shown; the last frame of
what ended first stays. A policy's directory contains pickles: load only those that you trust.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from worldmodel import envs
from worldmodel.cli.videos import write_side_by_side_gif
from worldmodel.collect.policy_specs import parse_policy
from worldmodel.dream import DreamEnv
from worldmodel.envs.make_like import env_arguments
from worldmodel.world.world_model import WorldModel


def main() -> int:
    """Play both and write the GIF."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", help="a directory of `train policy`, a file, or the name of a scripted policy")
    parser.add_argument("world", help="a world directory, or the name of a shipped world")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=3_000_000)
    parser.add_argument("--every", type=int, default=2)
    parser.add_argument("--frames", type=int, default=150, help="of the GIF, at most")
    args = parser.parse_args()
    world = WorldModel.from_pretrained(args.world)
    name, kwargs = env_arguments(world)
    env = envs.make(name, **kwargs)
    spec = parse_policy(args.policy, world.spec.action_space, envs.policy_defaults(name))
    videos = []
    for place in (env, DreamEnv(world)):
        policy = spec.build(world.spec.action_space, env)
        frames = play(place, policy, args.seed, args.every * args.frames)
        print(f"{type(place).__name__}: {len(frames) - 1} steps", file=sys.stderr)
        videos.append(frames[:: args.every])
    env.close()
    length = max(map(len, videos))
    padded = [np.concatenate([video, video[-1:].repeat(length - len(video), 0)]) for video in videos]
    write_side_by_side_gif(args.out, [np.concatenate(padded, axis=1)])  # real above dreamed
    return 0


def play(env: object, policy: object, seed: int, steps: int) -> np.ndarray:
    """Frames of an episode, (T, H, W, 3) uint8."""
    frame, _ = env.reset(seed=seed)  # type: ignore[attr-defined]
    policy.begin(np.random.default_rng(seed))  # type: ignore[attr-defined]
    frames, ended = [frame.copy()], False
    while not ended and len(frames) <= steps:
        action = np.asarray(policy.act(frame))  # type: ignore[attr-defined]
        frame, _, terminated, truncated, _ = env.step(action)  # type: ignore[attr-defined]
        frames.append(frame.copy())
        ended = terminated or truncated
    return np.stack(frames)


if __name__ == "__main__":
    sys.exit(main())
