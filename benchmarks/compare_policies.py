"""Which world trains the best policy: PPO in the dream of each for the same decisions, then tested in the real game.

    python benchmarks/compare_policies.py runs/compare/columns-0 runs/compare/frame-at-once-0 --work runs/policies \
        --out results/compare-policies.json

Policies are tested on seeds that nothing else uses, the same for all, and compared with uniform random play. Finished
policies are not trained again, and several processes may train on different worlds with one --work folder.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.collect.collect_config import TrainPolicy
from worldmodel.collect.learner_config import dream_learner_config
from worldmodel.collect.policy_evaluation import bootstrap_interval
from worldmodel.collect.policy_training import train_policy
from worldmodel.common.files import atomic_path
from worldmodel.common.run_info import code_version, machine


def train_and_test(world: Path, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train a policy in a world: its return in the environment, and the difference to random play."""
    learner = replace(dream_learner_config(args.env), decisions=args.decisions)
    out = args.work / f"{world.name}-{seed}"
    train_policy(TrainPolicy(out, args.env, seed, learner=learner, world=world, test_episodes=args.episodes))
    rows = {row["policy"]: row for row in json.loads((out / "test.json").read_text())["rows"]}
    dreamer, random = rows["dreamer"], rows["random"]
    keys = ("return_mean", "low", "high", "returns")
    return {
        "world": world.name,
        "seed": seed,
        **{key: dreamer[key] for key in keys},
        "random": random["return_mean"],
        "above random": random["first_minus_this"],
    }


def world_kind(world: str) -> str:
    """The name of a world without the number of its seed."""
    return re.sub(r"-\d+$", "", world)


def gather(args: argparse.Namespace) -> dict[str, Any]:
    """All finished rows, and for each kind of world the mean over its policies, with a bootstrap interval over them."""
    rows = [json.loads(path.read_text()) for path in sorted(args.work.glob("*.json"))]
    kinds: dict[str, list[float]] = {}
    for row in rows:
        kinds.setdefault(world_kind(row["world"]), []).append(row["return_mean"])
    means = {
        kind: {
            "policies": len(returns),
            "mean": float(np.mean(returns)),
            "interval": bootstrap_interval(np.asarray(returns)),
        }
        for kind, returns in kinds.items()
    }
    settings = {"env": args.env, "decisions": args.decisions, "episodes": args.episodes}
    return {"kinds": means, "rows": rows, **settings, "machine": machine(), "code_version": code_version()}


def main() -> None:
    """Train and test policy after policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worlds", type=Path, nargs="*", help="world directories; a number at the end is the seed")
    parser.add_argument("--env", default="doom/take-cover")
    parser.add_argument("--decisions", type=int, default=20_000)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--work", type=Path, default=Path("runs/policies"))
    parser.add_argument("--out", type=Path, default=Path("results/compare-policies.json"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for world in args.worlds:
            done = args.work / f"{world.name}-{seed}.json"
            if not done.exists():
                row = train_and_test(world, seed, args)
                with atomic_path(done) as temporary:
                    temporary.write_text(json.dumps(row))
            result = gather(args)
            with atomic_path(args.out) as temporary:
                temporary.write_text(json.dumps(result, indent=1) + "\n")
    for kind, row in gather(args)["kinds"].items():
        print(f"{kind}: {row['mean']:.0f} over {row['policies']} policies")


if __name__ == "__main__":
    main()
