"""From nothing to an evaluated dream of take-cover on one GPU in ten minutes; `gpu_first_dream.sh` calls it.

Records the real game, trains tokenizer and prior, evaluates the world, trains a policy in the dream and tests it in the
real game, measures the speed of dreams, and trains the flat prior in the time that is left. Every figure is in
OUT/result.json. After a kill the same command continues.
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


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.5, help="budget of the whole command; seconds with --tiny")
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT") or "runs/gpu-first-dream/out")
    parser.add_argument("--work", type=Path, default="runs/gpu-first-dream/work", help="the working folder")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--workers", type=int, default=0, help="recording processes; all cores but one if 0")
    parser.add_argument("--tiny", action="store_true", help="rehearse every stage on the toy within a minute")
    return parser.parse_args()


def main() -> int:
    """Run all stages; 0 if every stage was done or left out for lack of time."""
    args = parse_arguments()
    missing = missing_packages(NEEDED if args.tiny else (*NEEDED, "vizdoom"))
    if missing:
        print_missing(missing)
        return 3
    from gpu_run import StagedRun, run_facts
    from gpu_sizes import TINY, Sizes
    from gpu_stages import Stages, num_cores

    from worldmodel.common.errors import UserError
    from worldmodel.common.runtime import choose_runtime

    sizes = TINY if args.tiny else Sizes()
    settings = {"minutes": args.minutes, "tiny": args.tiny}
    # loading and evaluation of the rehearsal take longer than its training
    seconds = 60.0 + args.minutes if args.tiny else 60 * args.minutes
    try:
        facts = run_facts(choose_runtime(args.device).device)
        run = StagedRun(args.work, args.out, settings, facts, seconds)
        stages = Stages(run, sizes, args.minutes, args.device, args.workers or max(1, num_cores() - 1))
    except UserError as error:
        print(error)
        return 2
    run.print(f"{facts.get('device_name', facts['device'])}, {num_cores()} cores, torch {facts['versions']['torch']}")
    minute = sizes.scale
    run.stage("record", stages.record)
    run.stage("tokenizer", stages.tokenizer, ["record"], minute / 2)
    run.stage("prior", stages.prior, ["tokenizer"], minute / 2)
    run.stage("world_files", stages.world_files, ["prior"])
    run.stage("evaluate", stages.evaluate, ["prior"], minute / 3)
    run.stage("pictures", stages.pictures, ["prior"])
    run.stage("policy", stages.policy, ["prior"], minute / 2)
    run.stage("test", stages.test, ["policy"], minute / 3)
    run.stage("speed", stages.speed, ["prior"], minute / 4)
    run.stage("curves", stages.curves, ["tokenizer"])
    run.stage("flat", stages.flat, ["tokenizer"], minute)
    run.stage("speed_flat", stages.speed_flat, ["flat"], minute / 6)
    run.stage("evaluate_flat", stages.evaluate_flat, ["flat"], minute / 6)
    if run.is_done("flat"):
        stages.curves()  # plotted again, with the flat prior's
    files = {path.name: path.stat().st_size for path in sorted(args.out.iterdir())}
    run.print(f"{args.out}: {files}; failed: {', '.join(run.failed) or 'nothing'}")
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
