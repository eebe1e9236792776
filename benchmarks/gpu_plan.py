"""Planning in a trained world and in the true simulator, in processes that each play some seeds of `eval plan`.

The planner of one process leaves most of a GPU and of the machine's cores idle: a dream of some rows is limited by the
launches of its kernels, and the true simulator runs on one core.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

TEST_SEED = 1_000_000


def run_plans(
    world: Path, options: Sequence[tuple[str, Any]], baselines: Sequence[str], episodes: int, processes: int,
    folder: Path, device: str, seconds: float,
) -> list[dict[str, Any]]:  # fmt: skip
    """Play test seeds with the planner in the dream, in the true simulator, and with baselines.

    Args:
        world: the world directory; its environment is played.
        options: flags of `worldmodel eval plan`, name and value.
        baselines: policies to compare with.
        episodes: seeds of each process.
        processes: number of processes.
        folder: results of the processes; those that are there are kept.
        device: of the dreams.
        seconds: processes that take longer are killed, and their seeds left out.

    Returns:
        One row per policy, see `merged_rows`.

    Raises:
        RuntimeError: no process was done in time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline, running = time.monotonic() + seconds, []
    for number in range(processes):
        out = folder / f"{number}.json"
        if out.exists():
            continue
        command = [sys.executable, "-m", "worldmodel", "eval", "plan", "--world", str(world), "--out", str(out)]
        command += [word for name, value in options for word in (f"--{name}", str(value))]
        command += ["--baselines", *baselines, "--device", device, "--episodes", str(episodes)]
        command += ["--first-seed", str(TEST_SEED + number * episodes)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with open(folder / f"{number}.log", "wb") as log:
            running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
    try:
        for process in running:
            process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass  # the others may be done
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
            process.wait()
    done = [json.loads(path.read_text())["rows"] for path in sorted(folder.glob("*.json"))]
    if not done:
        logs = "".join(path.read_text()[-2000:] for path in sorted(folder.glob("*.log"))[:1])
        raise RuntimeError(f"no process was done within {seconds:.0f} s; the log of the first:\n{logs}")
    return merged_rows(done)


def merged_rows(parts: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Rows of `eval plan` over all seeds of its parts.

    Args:
        parts: rows of each part, one per policy, in the same order.

    Returns:
        Rows as those of `worldmodel.collect.policy_evaluation.comparison_rows`, with `success`,
        `success_first_minus_this` and, for planners, `seconds_per_search`.
    """
    from worldmodel.collect.policy_evaluation import bootstrap_interval, comparison_rows

    def interval(values: np.ndarray) -> dict[str, float]:
        low, high = bootstrap_interval(values)
        return {"mean": float(values.mean()), "low": low, "high": high}

    policies = {rows[0]["policy"]: rows for rows in zip(*parts, strict=True)}
    returns = {name: np.concatenate([row["returns"] for row in rows]) for name, rows in policies.items()}
    steps = {name: np.concatenate([[row["steps_mean"]] * row["episodes"] for row in p]) for name, p in policies.items()}
    merged, first = comparison_rows(returns, steps), None
    for row, parts_of_row in zip(merged, policies.values(), strict=True):
        successes = np.concatenate([part["successes"] for part in parts_of_row]).astype(float)
        first = successes if first is None else first
        row |= {"success": interval(successes), "success_first_minus_this": interval(first - successes)}
        if all("seconds_per_search" in part for part in parts_of_row):
            row["seconds_per_search"] = float(np.mean([part["seconds_per_search"] for part in parts_of_row]))
    return merged
