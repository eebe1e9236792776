"""Several results of benchmarks/lookahead.py together: each run, and all of their episodes.

    python benchmarks/pool_lookahead.py world-a.json world-b.json --out pooled.json

The runs differ in world or policy and have seeds of their own. Intervals are 95 % bootstrap intervals over episodes;
differences are paired by seed. What differs between runs, beyond their episodes, is not in the intervals: look at the
rows of the runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.common.files import write_json_atomic
from worldmodel.metrics.statistics import ratio

AHEAD = "with lookahead"


def returns_of(report: dict[str, Any]) -> dict[str, np.ndarray]:
    """Policy -> returns (N,) of the episodes of a finished run, in the order of their seeds."""
    others = {name: np.asarray(values) for name, values in report["returns"].items()}
    count = len(next(iter(others.values())))
    return {AHEAD: np.asarray([episode["return"] for episode in report["episodes"][:count]]), **others}


def figures(returns: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Mean of each policy, and difference of lookahead and each other one, with intervals."""
    own = returns[AHEAD]
    values = {**returns, **{f"lookahead minus {name}": own - x for name, x in returns.items() if name != AHEAD}}
    return {name: ratio(x, np.ones(len(x))).to_json() for name, x in values.items()}


def pool(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """{"runs": one for each report, "all": of all episodes}.

    Raises:
        ValueError: two reports share a seed, or have other policies.
    """
    found = [returns_of(report) for report in reports]
    seeds = [
        episode["seed"]
        for report, x in zip(reports, found, strict=True)
        for episode in report["episodes"][: len(x[AHEAD])]
    ]
    if len(set(seeds)) < len(seeds):
        raise ValueError("two runs share a seed; give runs with seeds of their own.")
    if any(x.keys() != found[0].keys() for x in found):
        raise ValueError(f"the runs were compared with other policies: {[sorted(x) for x in found]}")
    together = {name: np.concatenate([x[name] for x in found]) for name in found[0]}
    runs = [
        {"settings": report["settings"], "episodes": len(x[AHEAD]), **figures(x)}
        for report, x in zip(reports, found, strict=True)
    ]
    return {"runs": runs, "all": {"episodes": len(seeds), **figures(together)}}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="of benchmarks/lookahead.py --out")
    parser.add_argument("--out", type=Path, help="the table as JSON")
    options = parser.parse_args(arguments)
    result = pool([json.loads(path.read_text()) for path in options.files])
    for path, run in zip([*map(str, options.files), "all"], [*result["runs"], result["all"]], strict=True):
        print(f"{path}, {run['episodes']} episodes")
        for name, figure in run.items():
            if isinstance(figure, dict) and "mean" in figure:
                print("  {}: {mean:.0f} [{low:.0f}, {high:.0f}]".format(name, **figure))
    if options.out is not None:
        write_json_atomic(options.out, result)


if __name__ == "__main__":
    main()
