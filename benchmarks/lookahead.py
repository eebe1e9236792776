"""A policy with and without lookahead in the dreams of a world, on the same seeds of the environment.

    python benchmarks/lookahead.py runs/dreamer --world runs/cover --episodes 60 --against periodic --out lookahead.json

The policy compares its actions in dreams before each decision (`collect.lookahead_policy`). `worldmodel eval policy
lookahead:POLICY:WORLD` plays the same; this script is for hours of it: an episode that is done is
kept in --out: repeat the command to continue, or to add episodes. --workers processes share the seeds. Whether the
policy reacts to what it observes is measured too: each episode is played again with the actions of the next one, and
where it outlasts that, of those after it; the last one is followed by the first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pool_lookahead import AHEAD, figures

from worldmodel import envs
from worldmodel.collect.lookahead_spec import LookaheadConfig
from worldmodel.collect.policy_evaluation import evaluate
from worldmodel.collect.policy_specs import describe_policy_file, parse_noisy_policy
from worldmodel.collect.rollout import play_steps
from worldmodel.common.files import write_json_atomic
from worldmodel.envs.make_like import env_arguments
from worldmodel.world.world_model import WorldModel


def play(args: argparse.Namespace, name: str, kwargs: dict[str, Any], seed: int) -> dict[str, Any]:
    """One episode of the environment of this name with lookahead."""
    torch.set_num_threads(1)
    lookahead = LookaheadConfig(args.world, args.dreams, args.decisions, args.margin, args.backend)
    env = envs.make(name, **kwargs)
    policy: Any = describe_policy_file(args.policy / "policy.zip", lookahead=lookahead).build(
        env.meta.action_space, env
    )
    policy.begin(np.random.default_rng(seed))
    begin = time.process_time()
    steps = list(play_steps(env, policy.act, seed))[1:]  # the first is the reset
    env.close()
    return {
        "seed": seed,
        "return": sum(float(step.reward) for step in steps),
        "decisions": policy.decided,
        "changed": policy.changed,
        "seconds": time.process_time() - begin,
        "actions": [int(step.action) for step in steps],
    }


def replay_returns(env: Any, episodes: list[dict[str, Any]]) -> list[float]:
    """Returns of the seeds of some episodes with the actions of the episodes that follow each."""
    returns = []
    for i, episode in enumerate(episodes):
        others = itertools.cycle(episodes[i + 1 :] + episodes[: i + 1])
        actions = (action for other in others for action in other["actions"])
        steps = list(play_steps(env, lambda _, of=actions: next(of), episode["seed"]))
        returns.append(sum(float(step.reward) for step in steps))
    return returns


def main() -> None:
    """Play the missing episodes, then the policy alone, and print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path, help="directory of `train policy` or `improve policy`")
    parser.add_argument("--world", required=True, help="a world directory, or the name of a shipped world")
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--first-seed", type=int, default=2_000_000)
    parser.add_argument("--dreams", type=int, default=6, help="of each action")
    parser.add_argument("--decisions", type=int, default=3, help="length of a dream")
    parser.add_argument("--margin", type=float, default=0.01)
    parser.add_argument("--backend", default="torch", choices=("torch", "onnx"))
    parser.add_argument("--against", nargs="*", default=[], metavar="POLICY", help="policies to play on the same seeds")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    settings = {
        name: str(value) for name, value in vars(args).items() if name not in ("episodes", "out", "workers", "against")
    }
    report = json.loads(args.out.read_text()) if args.out.exists() else {"settings": settings, "episodes": []}
    if report["settings"] != settings:
        parser.error(f"{args.out} has other settings: {report['settings']}")
    done = {episode["seed"] for episode in report["episodes"]}
    seeds = [seed for seed in range(args.first_seed, args.first_seed + args.episodes) if seed not in done]
    name, kwargs = env_arguments(WorldModel.from_pretrained(args.world))
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        for episode in pool.imap_unordered(partial(play, args, name, kwargs), seeds):
            report["episodes"] = sorted([*report["episodes"], episode], key=lambda row: int(row["seed"]))
            write_json_atomic(args.out, report)
            returns = [row["return"] for row in report["episodes"]]
            print(f"{len(returns)} episodes, mean {np.mean(returns):.0f}", flush=True)
    env = envs.make(name, **kwargs)
    episodes = report["episodes"][: args.episodes]
    own = np.asarray([episode["return"] for episode in episodes])
    policies = {"alone": describe_policy_file(args.policy / "policy.zip")}
    for text in args.against:
        policies[text] = parse_noisy_policy(text, env.meta.action_space, envs.policy_defaults(name))
    rows = evaluate(policies, name, kwargs, args.episodes, args.first_seed, 1)
    others = {row["policy"]: np.asarray(row["returns"]) for row in rows}
    others["actions of the next episode"] = np.asarray(replay_returns(env, episodes))
    env.close()
    report["figures"] = figures({AHEAD: own, **others})
    report["returns"] = {name: x.tolist() for name, x in others.items()}
    write_json_atomic(args.out, report)
    for key, figure in report["figures"].items():
        print("{}: {mean:.1f} [{low:.1f}, {high:.1f}]".format(key, **figure))


if __name__ == "__main__":
    main()
