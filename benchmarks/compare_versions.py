"""Speed of another checkout of this repository compared with this one, by the verbs `worldmodel bench`.

    python benchmarks/compare_versions.py ../old-checkout versions.json --world ../old-checkout/worldmodel/worlds/toy

Each round runs a verb in both checkouts, in alternating order, in processes of their own. A row of the result is the
median over rounds of the ratio this / other, with the lowest and the highest round. Both run with the packages of this
interpreter. Use a quiet machine: `load_before` is stored.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from worldmodel.common.files import write_json_atomic
from worldmodel.common.run_info import machine

ROOT = Path(__file__).resolve().parent.parent
VERBS: dict[str, list[str]] = {
    "loader": ["--seconds", "1"],
    "collect": ["--env", "toy", "--rounds", "1", "--episodes", "48"],
    "tokenizer": ["--seconds", "1", "--rounds", "1"],
    "prior": ["--batches", "1", "16", "64", "--seconds", "1", "--rounds", "1"],
    "onnx": [],
    "dream": ["--batches", "1", "16", "64", "--seconds", "0.5", "--rounds", "1", "--learner-rows", "0"],
}
# Steps of dreams by onnxruntime, which no verb measures: names and arguments are the same in all versions.
ONNX_STEPS = """
import json, sys, time, numpy as np
from worldmodel.dream import DreamVectorEnv
rows = []
for batch in (1, 16, 64):
    dreams = DreamVectorEnv(batch, world=sys.argv[1], backend="onnx")
    dreams.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, 3, (64, batch))
    for t in range(8):
        dreams.step(actions[t])
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < 2:
        dreams.step(actions[count % 64])
        count += 1
    rows.append({"batch": batch, "steps/s": batch * count / (time.perf_counter() - begin)})
print(json.dumps({"rows": rows}))
"""
OLD_NAMES = {"learn codes/s": "train codes/s"}  # columns of earlier versions
LABELS = ("reader", "way", "method", "tokenizer", "prior", "interface", "batch", "threads")


def measure(checkout: Path, verb: str, options: list[str]) -> list[dict[str, Any]]:
    """The rows that `worldmodel bench VERB` of a checkout prints."""
    command = [sys.executable, "-m", "worldmodel", "bench", verb, *options, "--json"]
    if verb == "onnx":
        command = [sys.executable, "-c", ONNX_STEPS, *options]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, env=environment, cwd=checkout, stdout=subprocess.PIPE, text=True, check=True)
    rows: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    return [{OLD_NAMES.get(name, name): value for name, value in row.items()} for row in rows]


def rates(row: dict[str, Any]) -> dict[str, float]:
    """The columns of a row that are rates, by name."""
    return {
        name: float(value)
        for name, value in row.items()
        if (name.endswith("/s") or name == "clips_per_second") and isinstance(value, int | float)
    }


def compare(other: Path, verb: str, options: list[str], rounds: int) -> list[dict[str, Any]]:
    """Ratios of all rows and columns of a verb."""
    pairs: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = []
    for number in range(rounds):
        order = (ROOT, other) if number % 2 else (other, ROOT)
        found = {checkout: measure(checkout, verb, options) for checkout in order}
        pairs.append((found[ROOT], found[other]))
        print(f"{verb}: round {number + 1} of {rounds}", file=sys.stderr)
    table = []
    for index, first in enumerate(pairs[0][0]):
        label = " ".join(str(first[name]) for name in LABELS if name in first)
        for column in rates(first):
            new, old = ([rates(side[index])[column] for side in sides] for sides in zip(*pairs, strict=True))
            ratios = [a / b for a, b in zip(new, old, strict=True)]
            row = {"row": label, "column": column, "this": median(new), "other": median(old)}
            table.append({**row, "ratio": median(ratios), "lowest": min(ratios), "highest": max(ratios)})
    return table


def main() -> None:
    """Parse, measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="another checkout")
    parser.add_argument("out", type=Path, help="NAME.json")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=list(VERBS), choices=list(VERBS))
    parser.add_argument("--world", required=True, help="a world directory that both versions read")
    arguments = parser.parse_args()
    found: dict[str, Any] = {"load_before": os.getloadavg()[0], "machine": machine(), "rounds": arguments.rounds}
    for verb in arguments.only:
        options = VERBS[verb]
        if verb == "onnx":
            options = [arguments.world]
        elif verb in ("prior", "dream"):
            options = [*options, "--world", arguments.world]
        found[verb] = compare(arguments.other.resolve(), verb, options, arguments.rounds)
        for row in found[verb]:
            interval = f"[{row['lowest']:.2f}, {row['highest']:.2f}]"
            print(f"{verb:<10} {row['row']:<60} {row['column']:<18} {row['ratio']:.2f} {interval}")
        write_json_atomic(arguments.out, found)


if __name__ == "__main__":
    main()
