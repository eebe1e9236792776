"""Changes of a learned world, one a row: each continues the same base world, and all are evaluated alike.

    python benchmarks/world_repairs.py --coverage coverage.h5 --old cover.h5 --out runs/repairs
    python benchmarks/world_repairs.py --coverage coverage.h5 --old cover.h5 --out runs/repairs --rows coverage mirror

Each row is a world in OUT/NAME/world, made by `worldmodel train prior` with --init-from the base world and a budget of
--minutes of processor time on one thread, and OUT/NAME/evaluation.json, made by `worldmodel eval world`: the held-out
ladder and permanence on recordings with coverage; no policy is trained. A row that is done is kept, one that was
stopped continues: repeat the command. OUT/table.md compares the rows that are done.

Real returns of the ladder are measured once and kept in the cache folder, on validation seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.common.files import atomic_path, write_json_atomic

METRICS = "ladder,permanence,permanence_precision,nats,psnr"
AHEAD = (1, 4, 8, 15)
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TQDM_MININTERVAL": "10"}


@dataclass(frozen=True)
class Repair:
    """One row.

    Attributes:
        about: what is changed, for the table.
        data: "coverage", "old" or "" for the base world itself, which is not trained.
        train: further flags of `worldmodel train prior`.
        evaluate: further flags of `worldmodel eval world`.
        of: evaluates the world of this row instead of training one.
    """

    about: str
    data: str = "coverage"
    train: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()
    of: str = ""


REPAIRS: dict[str, Repair] = {
    "base": Repair("the base world, not continued", data=""),
    "longer": Repair("continued on the old recordings", data="old"),
    "coverage": Repair("continued on recordings with coverage"),
    "mirror": Repair("... and mirror augmentation", train=("--mirror",)),
    "noise": Repair("... and twice the history noise", train=("--prior.history-noise", "0.12")),
    "rare": Repair("... and twice the weight of rare places", train=("--prior.rare-weight", "8")),
    "rate": Repair("... and a third of the learning rate", train=("--train-prior.learning-rate", "5e-4")),
    "average": Repair("... and averaged weights", train=("--train-prior.ema-decay", "0.999")),
    "cooler": Repair("coverage, dreams at temperature 0.9", evaluate=("--sampling.temperature", "0.9"), of="coverage"),
    "warmer": Repair("coverage, dreams at temperature 1.1", evaluate=("--sampling.temperature", "1.1"), of="coverage"),
}


def main() -> int:
    """Make the rows, one after the other, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="doom-take-cover-small", help="a world directory, or a shipped name")
    parser.add_argument("--preset", default="doom-take-cover-small", help="the preset with its sizes")
    parser.add_argument("--coverage", type=Path, required=True, help="recordings of `--preset take-cover-coverage`")
    parser.add_argument("--old", type=Path, help="recordings of the base world, for the row longer")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", nargs="*", default=None, choices=tuple(REPAIRS))
    parser.add_argument("--minutes", type=float, default=30.0, help="processor time of each training")
    parser.add_argument("--episodes", type=int, default=30, help="dreams and real episodes of a ladder policy")
    parser.add_argument("--clips", type=int, default=256, help="test clips of the other metrics")
    args = parser.parse_args()
    names = args.rows or [name for name, row in REPAIRS.items() if row.data != "old" or args.old is not None]
    for name in names:
        make_row(name, args)
    text = table(args.out)
    print(text, end="")
    with atomic_path(args.out / "table.md") as temporary:
        temporary.write_text(text)
    return 0


def make_row(name: str, args: argparse.Namespace) -> None:
    """Train and evaluate a row, unless it is done."""
    row, folder = REPAIRS[name], args.out / name
    folder.mkdir(parents=True, exist_ok=True)
    world = args.out / row.of / "world" if row.of else folder / "world"
    if not row.data:
        world = args.base
    elif row.of:
        make_row(row.of, args)
    else:
        data = args.old if row.data == "old" else args.coverage
        run("train", "prior", "--preset", args.preset, "--tokenizer", args.base, "--init-from", args.base,
            "--data", data, "--out", world, "--minutes", args.minutes, "--train-prior.clock", "processor",
            *row.train)  # fmt: skip
    if not (folder / "evaluation.json").exists():
        run("eval", "world", world, "--data", args.coverage, "--metrics", METRICS, "--clips", args.clips,
            "--ladder-episodes", args.episodes, *row.evaluate, "--out", folder / "evaluation.json")  # fmt: skip
    facts = {"row": name, "about": row.about, "minutes": args.minutes if row.data else 0.0}
    write_json_atomic(folder / "row.json", facts)


def run(*words: Any) -> None:
    """Run `worldmodel` with one thread; its output goes to stderr."""
    command = [sys.executable, "-m", "worldmodel", *map(str, words)]
    print(" ".join(command[1:]), file=sys.stderr, flush=True)
    subprocess.run(command, check=True, env={**os.environ, **ONE_THREAD}, stdout=sys.stderr)


def table(out: Path) -> str:
    """The rows that are done as Markdown."""
    fireballs = " / ".join(map(str, AHEAD))
    header = [
        *("", "changed", "nats per code", f"fireballs found {fireballs} ahead", f"precision {fireballs} ahead"),
        *("held-out ladder: rho", "worst ratio", "median ratio", "minutes"),
    ]
    lines = [header, ["---"] * len(header)]
    for name in REPAIRS:
        folder = out / name
        if not (folder / "row.json").exists():
            continue
        facts = json.loads((folder / "row.json").read_text())
        sections = json.loads((folder / "evaluation.json").read_text())["sections"]
        lines.append([name, facts["about"], *figures(sections), f"{facts['minutes']:g}"])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def figures(sections: dict[str, Any]) -> list[str]:
    """The cells of one evaluation."""

    def values(section: str, metric: str) -> list[dict[str, Any]]:
        return sections[section][metric]["values"]

    def along(metric: str, kind: str) -> str:
        found = {value["label"]: value["value"]["mean"] for value in values("permanence", metric)}
        return " / ".join(f"{found[label]:.2f}" for label in (f"{kind}, {n} ahead" for n in AHEAD) if label in found)

    nats, rank, ratio = values("likelihood", "nats"), values("ladder", "ladder_rank"), values("ladder", "ladder_ratio")
    kind = "fireball" if along("permanence", "fireball") else "all"
    return [
        interval(nats[0]["value"]),
        along("permanence", kind) or "-",
        along("permanence_precision", kind) or "-",
        interval(rank[0]["value"]) if rank else "-",
        f"{interval(ratio[0]['value'])} ({ratio[0]['label']}, {ratio[0]['verdict']})" if ratio else "-",
        f"{ratio[0]['baselines']['median policy']['mean']:.2f}" if ratio else "-",
    ]


def interval(estimate: dict[str, float]) -> str:
    """Mean and 95 % interval."""
    return f"{estimate['mean']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"


if __name__ == "__main__":
    sys.exit(main())
