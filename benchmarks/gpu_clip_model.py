"""The paper's clip model on one GPU in ten minutes: train, sample, score; `gpu_clip_model.sh` calls it.

Trains a tokenizer of whole clips (paper table 8, BAIR) and a clip prior near the paper's (table 9, BAIR) on clips of
moving squares, samples clips of every class, and measures speed, agreement and distance to held-out clips. Every figure
is in OUT/result.json. After a kill the same command continues.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from gpu_packages import missing_packages, print_missing

NEEDED = ("torch", "numpy", "PIL", "h5py", "safetensors", "einops", "tqdm", "cattrs", "tyro", "gymnasium")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="budget of the whole command; seconds with --tiny")
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT") or "runs/gpu-clip-model/out")
    parser.add_argument("--work", type=Path, default="runs/gpu-clip-model/work", help="the working folder")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--tiny", action="store_true", help="rehearse every stage in small within a minute")
    return parser.parse_args()


def main() -> int:
    """Run all stages; 0 if every stage was done or left out for lack of time."""
    args = parse_arguments()
    missing = missing_packages(NEEDED)
    if missing:
        print_missing(missing)
        return 3
    from gpu_clip_stages import TINY, ClipStages, Sizes
    from gpu_run import StagedRun, run_facts

    from worldmodel.common.errors import UserError
    from worldmodel.common.runtime import choose_runtime

    sizes = TINY if args.tiny else Sizes()
    settings = {"minutes": args.minutes, "tiny": args.tiny}
    # loading and evaluation of the rehearsal take longer than its training
    seconds = 60.0 + args.minutes if args.tiny else 60 * args.minutes
    try:
        facts = run_facts(choose_runtime(args.device).device)
        run = StagedRun(args.work, args.out, settings, facts, seconds)
    except UserError as error:
        print(error)
        return 2
    stages = ClipStages(run, sizes, args.minutes * sizes.scale, args.device)
    run.print(f"{facts.get('device_name', facts['device'])}, torch {facts['versions']['torch']}")
    run.stage("data", stages.data)
    run.stage("border", stages.border, min_seconds=sizes.scale / 6)
    run.stage("tokenizer", stages.tokenizer, ["data"], sizes.scale / 2)
    run.stage("prior", stages.prior, ["tokenizer"], sizes.scale)
    run.stage("half_precision", stages.half_precision, ["prior"], sizes.scale / 6)
    run.stage("sample", stages.sample, ["prior"], sizes.scale)
    run.stage("metrics", stages.metrics, ["sample"])
    run.stage("pictures", stages.pictures, ["sample"])
    run.stage("logs", stages.logs, ["tokenizer"])
    files = {path.name: path.stat().st_size for path in sorted(args.out.iterdir())}
    run.print(f"{args.out}: {files}; failed: {', '.join(run.failed) or 'nothing'}")
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
