"""The paper's Moving MNIST model and its ablation tables on one GPU; `gpu_paper.sh` calls it.

Trains the tokenizer and the prior of the Moving MNIST columns of tables 8 and 9, scores reconstructions, FVD (256
against 256 clips, several trials) and the best of 100 samples, and runs the ablation tables. No stage takes more than
ten minutes, and one call does not do all of them: the same command, called again, continues with the next stages.
Every figure is in OUT/result.json.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from gpu_packages import missing_packages, print_missing

NEEDED = (
    *("torch", "numpy", "PIL", "h5py", "safetensors", "einops", "tqdm", "cattrs", "tyro", "filelock", "gymnasium"),
    "matplotlib",
)
MODEL = "moving-mnist"
PARTS = (MODEL, "table3", "table4", "table5", "table6", "table7")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=PARTS, choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--minutes", type=float, default=9.5, help="budget of this call; stages that do not fit wait")
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT") or "runs/gpu-paper/out")
    parser.add_argument("--work", type=Path, default="runs/gpu-paper/work", help="the working folder")
    parser.add_argument("--digits", default="mnist-5k", help="the asset mnist-5k, or a file of digits")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--tiny", action="store_true", help="rehearse every stage in small on a CPU, without weights")
    return parser.parse_args()


def main() -> int:
    """Run the stages that fit; 0 if no stage failed."""
    args = parse_arguments()
    missing = missing_packages(NEEDED)
    if missing:
        print_missing(missing)
        return 3
    from gpu_paper_stages import TINY, PaperSizes, PaperStages
    from gpu_run import StagedRun, run_facts

    from worldmodel.common.errors import UserError
    from worldmodel.common.runtime import choose_runtime

    sizes = TINY if args.tiny else PaperSizes()
    try:
        facts = run_facts(choose_runtime(args.device).device)
        run = StagedRun(args.work, args.out, {"tiny": args.tiny}, facts, 60 * args.minutes)
    except UserError as error:
        print(error)
        return 2
    stages = PaperStages(run, sizes, args.device, args.digits)
    run.print(f"{facts.get('device_name', facts['device'])}, torch {facts['versions']['torch']}")
    run.stage("data", stages.data)
    if MODEL in args.only:
        run_model(run, stages, sizes)
    for table in (part for part in PARTS if part in args.only and part != MODEL):
        needs = "data"
        for seed in sizes.seeds:
            name = f"{table}-seed-{seed}"
            run.stage(name, partial(stages.table, table, seed), [needs], sizes.table_seconds)
            needs = name
    left = [name for name, entry in run.result["stages"].items() if "left_out" in entry]
    run.print(f"failed: {', '.join(run.failed) or 'nothing'}; for the next call: {', '.join(left) or 'nothing'}")
    return 1 if run.failed else 0


def run_model(run: Any, stages: Any, sizes: Any) -> None:
    """Train, sample and score the model of Moving MNIST."""
    run.stage("tokenizer", stages.tokenizer, ["data"], sizes.training_seconds)
    run.stage("prior", stages.prior, ["tokenizer"], sizes.training_seconds)
    run.stage("reconstruction", stages.reconstruction, ["prior"], sizes.scoring_seconds)
    trials = [f"fvd-trial-{number}" for number in range(sizes.trials)]
    for number, name in enumerate(trials):
        run.stage(name, partial(stages.fvd_trial, number), ["prior"], sizes.scoring_seconds)
    run.stage("fvd", partial(stages.fvd, trials), trials)
    parts = [f"best-part-{number}" for number in range(sizes.best_parts)]
    for number, name in enumerate(parts):
        run.stage(name, partial(stages.best_part, number), ["prior"], sizes.best_seconds)
    run.stage("best", partial(stages.best, parts), parts)
    run.stage("pictures", stages.pictures, ["prior"])


if __name__ == "__main__":
    sys.exit(main())
