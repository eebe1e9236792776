"""One world from recordings to its evaluation on one GPU within ten minutes; `gpu_worlds.sh` calls it.

Records a mixture of policies on all cores, trains tokenizer and prior, evaluates the world with every metric, plans in
it where the environment has a goal, and measures the speed of its dreams. `--policy` also trains PPO in the real game.
Every figure is in OUT/result.json. After a kill the same command continues.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from gpu_packages import missing_packages, print_missing

NEEDED = (
    *("torch", "numpy", "PIL", "h5py", "safetensors", "einops", "tqdm", "cattrs", "tyro", "cloudpickle", "gymnasium"),
    *("stable_baselines3", "matplotlib", "imageio"),
)
ENGINES = {"take-cover": "vizdoom", "hgs": "vizdoom", "battle2": "vizdoom", "push": "mujoco"}  # by world


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", required=True, choices=tuple(ENGINES))
    parser.add_argument("--policy", action="store_true", help="also train PPO in the real game and test it")
    parser.add_argument("--minutes", type=float, default=9.5, help="budget of the whole command; seconds with --tiny")
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT"), help="default: runs/gpu-worlds/WORLD/out")
    parser.add_argument("--work", type=Path, help="default: runs/gpu-worlds/WORLD/work")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--workers", type=int, default=0, help="processes that play; all cores but one if 0")
    parser.add_argument("--tiny", action="store_true", help="rehearse every stage on the toy within a minute")
    return parser.parse_args()


def main() -> int:
    """Run all stages; 0 if every stage was done or left out for lack of time."""
    args = parse_arguments()
    missing = missing_packages(NEEDED if args.tiny else (*NEEDED, ENGINES[args.world]))
    if missing:
        print_missing(missing)
        return 3
    from gpu_run import StagedRun, run_facts
    from gpu_stages import num_cores
    from gpu_world_sizes import WORLDS, tiny
    from gpu_world_stages import WorldStages

    from worldmodel import envs
    from worldmodel.common.errors import UserError
    from worldmodel.common.runtime import choose_runtime

    sizes = tiny(args.world) if args.tiny else WORLDS[args.world]
    settings = {"world": args.world, "policy": args.policy, "minutes": args.minutes, "tiny": args.tiny}
    # loading and evaluation of the rehearsal take longer than its training
    seconds = 120.0 + args.minutes if args.tiny else 60 * args.minutes
    folder = Path("runs/gpu-worlds", args.world)
    out, work, workers = args.out or folder / "out", args.work or folder / "work", args.workers
    try:
        envs.make(sizes.env, **dict(sizes.env_kwargs)).close()  # a missing map or renderer is known at once
        facts = run_facts(choose_runtime(args.device).device)
        run = StagedRun(work, out, settings, facts, seconds)
    except UserError as error:
        print(error)
        return 2
    stages = WorldStages(run, sizes, args.minutes, args.device, workers or max(1, num_cores() - 1), args.policy)
    run.print(f"{facts.get('device_name', facts['device'])}, {num_cores()} cores, torch {facts['versions']['torch']}")
    minute = sizes.scale
    run.stage("record", stages.record)
    if args.policy:
        run.stage("policy", stages.policy, ["record"], minute / 2)
        run.stage("test", stages.test, ["policy"], minute / 2)
    run.stage("tokenizer", stages.tokenizer, ["record"], minute / 2)
    run.stage("prior", stages.prior, ["tokenizer"], minute / 2)
    run.stage("world_files", stages.world_files, ["prior"])
    run.stage("speed", stages.speed, ["prior"], minute / 4)
    run.stage("pictures", stages.pictures, ["prior"])
    run.stage("evaluate", stages.evaluate, ["prior"], minute / 3)
    if sizes.plan is not None:
        run.stage("plan", stages.plan, ["prior"], minute / 2)
    run.stage("curves", stages.curves, ["tokenizer"])
    files = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    run.print(f"{out}: {files}; failed: {', '.join(run.failed) or 'nothing'}")
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
