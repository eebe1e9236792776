"""Policies of take-cover that learn only in dreams, on one GPU; `gpu_take_cover.sh` calls it.

Records the coverage mixture on all cores, trains worlds of several seeds and policies of several seeds in each, and
tests every policy on test seeds of the real game. The stages of the first world and its first policy come first, so
that even a short run has a result. A stage for which the time of one command is too short is done by the next: repeat
the command until it prints "complete". Every figure is in OUT/result.json. After a kill the same command continues.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from gpu_packages import missing_packages, print_missing

NEEDED = (
    *("torch", "numpy", "PIL", "h5py", "safetensors", "einops", "tqdm", "cattrs", "tyro", "cloudpickle", "gymnasium"),
    *("stable_baselines3", "matplotlib", "imageio", "filelock"),
)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.5, help="time of one command; seconds with --tiny")
    parser.add_argument("--worlds", type=int, default=2, help="seeds of worlds")
    parser.add_argument("--policies", type=int, default=3, help="seeds of policies in each world")
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT", "runs/gpu-take-cover/out"))
    parser.add_argument("--work", type=Path, default=Path("runs/gpu-take-cover/work"))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--workers", type=int, default=0, help="processes that play; all cores but one if 0")
    parser.add_argument("--tiny", action="store_true", help="rehearse every stage on the toy within a minute")
    return parser.parse_args()


def main() -> int:
    """Run the stages; 0 if every stage was done or left for the next command."""
    args = parse_arguments()
    missing = missing_packages(NEEDED if args.tiny else (*NEEDED, "vizdoom"))
    if missing:
        print_missing(missing)
        return 3
    from gpu_run import StagedRun, run_facts
    from gpu_stages import num_cores
    from gpu_take_cover_stages import TAKE_COVER, TINY_TAKE_COVER, TakeCoverStages

    from worldmodel.common.errors import UserError
    from worldmodel.common.runtime import choose_runtime

    sizes = TINY_TAKE_COVER if args.tiny else TAKE_COVER
    settings = {"worlds": args.worlds, "policies": args.policies, "tiny": args.tiny}
    seconds = 120.0 + args.minutes if args.tiny else 60 * args.minutes
    try:
        facts = run_facts(choose_runtime(args.device).device)
        run = StagedRun(args.work, args.out, settings, facts, seconds)
    except UserError as error:
        print(error)
        return 2
    stages = TakeCoverStages(run, sizes, args.minutes, args.device, args.workers or max(1, num_cores() - 1))
    run.print(f"{facts.get('device_name', facts['device'])}, {num_cores()} cores, torch {facts['versions']['torch']}")
    names = stages.run_all(args.worlds, args.policies)
    if all(map(run.is_done, names)):
        run.stage("summary", lambda: stages.summary(args.worlds, args.policies))
        run.print("complete")
    files = {path.name: path.stat().st_size for path in sorted(args.out.iterdir())}
    run.print(f"{args.out}: {files}; failed: {', '.join(run.failed) or 'nothing'}")
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
