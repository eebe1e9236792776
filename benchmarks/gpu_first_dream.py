"""From nothing to a judged dream of take-cover on one GPU in ten minutes; `gpu_first_dream.sh` calls it.

Records the real game, learns tokenizer and prior, judges the world, trains a policy in it alone and tests that in the
real game, times the dreams, and learns the flat prior in the time that is left. Every figure is in OUT/result.json.
The same command goes on where a killed one stopped.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
from pathlib import Path
from typing import Any

NEEDED = (
    *("torch", "numpy", "PIL", "h5py", "safetensors", "einops", "tqdm", "cattrs", "tyro", "cloudpickle", "gymnasium"),
    *("stable_baselines3", "matplotlib", "imageio"),
)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.5, help="budget of the whole command; seconds with --tiny")
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT") or "runs/gpu-first-dream/out")
    parser.add_argument("--work", type=Path, default="runs/gpu-first-dream/work", help="where it goes on")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--workers", type=int, default=0, help="recording processes; all cores but one if 0")
    parser.add_argument("--tiny", action="store_true", help="rehearse every stage on the toy within a minute")
    return parser.parse_args()


def lacking(modules: tuple[str, ...]) -> list[str]:
    """Modules that cannot be imported, each with the reason."""
    found = []
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken package is as bad as a missing one
            found.append(f"{name} ({type(error).__name__}: {error})")
    return found


def head(device: Any) -> dict[str, Any]:
    """What a reader must know of the machine."""
    import torch

    from worldmodel.common.run_info import code_version, machine, versions

    about: dict[str, Any] = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "code_version": code_version(),
        "versions": versions() | {"torch": torch.__version__, "python": platform.python_version()},
        "machine": machine(),
        "device": str(device),
    }
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        about |= {"device_name": facts.name, "device_memory_gb": round(facts.total_memory / 2**30, 1)}
        about["cuda"] = torch.version.cuda
    return about


def main() -> int:
    """Do what the command line asks; 0 where every stage was done or left out for want of time."""
    given = arguments()
    missing = lacking(NEEDED if given.tiny else (*NEEDED, "vizdoom"))
    if missing:
        print("These packages are missing; put their unpacked wheels into the folder WHEELS:", *missing, sep="\n  ")
        return 3
    from gpu_books import Books
    from gpu_stages import TINY, Run, Sizes, cores

    from worldmodel.common.errors import UserError
    from worldmodel.common.runtime import choose_runtime

    sizes = TINY if given.tiny else Sizes()
    run_of = {"minutes": given.minutes, "tiny": given.tiny}
    # the rehearsal's loading and judging take longer than its learning
    seconds = 60.0 + given.minutes if given.tiny else 60 * given.minutes
    try:
        facts = head(choose_runtime(given.device).device)
        books = Books(given.work, given.out, run_of, facts, seconds)
        run = Run(books, sizes, given.minutes, given.device, given.workers or max(1, cores() - 1))
    except UserError as error:
        print(error)
        return 2
    books.say(f"{facts.get('device_name', facts['device'])}, {cores()} cores, torch {facts['versions']['torch']}")
    minute = sizes.scale
    books.stage("record", run.record)
    books.stage("tokenizer", run.tokenizer, ["record"], minute / 2)
    books.stage("prior", run.prior, ["tokenizer"], minute / 2)
    books.stage("parcel", run.parcel, ["prior"])
    books.stage("judge", run.judge, ["prior"], minute / 3)
    books.stage("pictures", run.pictures, ["prior"])
    books.stage("policy", run.policy, ["prior"], minute / 2)
    books.stage("test", run.test, ["policy"], minute / 3)
    books.stage("speed", run.speed, ["prior"], minute / 4)
    books.stage("curves", run.curves, ["tokenizer"])
    books.stage("flat", run.flat, ["tokenizer"], minute)
    books.stage("speed_flat", run.speed_flat, ["flat"], minute / 6)
    books.stage("judge_flat", run.judge_flat, ["flat"], minute / 6)
    if books.done("flat"):
        run.curves()  # drawn again, with the flat prior's
    sizes_of = {path.name: path.stat().st_size for path in sorted(given.out.iterdir())}
    books.say(f"{given.out}: {sizes_of}; failed: {', '.join(books.failed) or 'nothing'}")
    return 1 if books.failed else 0


if __name__ == "__main__":
    sys.exit(main())
