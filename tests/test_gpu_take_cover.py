"""The GPU script of policies that learn only in dreams, rehearsed on the toy in two commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.slow
def test_the_rehearsal_trains_and_tests_every_policy_in_several_commands(tmp_path: Path) -> None:
    command = ["sh", str(BENCHMARKS / "gpu_take_cover.sh"), "--tiny", "--device", "cpu", "--workers", "2"]
    command += ["--worlds", "2", "--policies", "2", "--work", str(tmp_path / "work")]
    environment = {**os.environ, "OUT": str(tmp_path / "out"), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    first = subprocess.run(
        [*command, "--minutes", "-110"], env=environment, capture_output=True, text=True, timeout=280
    )
    assert first.returncode == 0, first.stdout + first.stderr
    assert "complete" not in first.stdout, "ten seconds are too short for all stages"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "record: done before" in done.stdout
    assert "complete" in done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"policy.zip", "result.json", "world-1.safetensors"}
    stages = json.loads((tmp_path / "out" / "result.json").read_text())["stages"]
    figures = {name: stage["figures"] for name, stage in stages.items()}
    runs = [f"{world}-{policy}" for world in range(2) for policy in range(2)]
    assert all(figures[f"policy-{run}"]["decisions"] > 0 for run in runs)
    means = {run: np.mean(figures[f"test-{run}"]["rows"][0]["returns"]) for run in runs}
    assert figures["summary"]["runs"] == pytest.approx(means)
    assert figures["summary"]["mean"] == pytest.approx(np.mean(list(means.values())))
    for world in range(2):
        returns = figures[f"lookahead-{world}"]["rows"][0]["returns"]
        assert returns != figures[f"test-{world}-0"]["rows"][0]["returns"][: len(returns)]
    assert set(figures["summary"]["baselines"]) == {"random", "periodic"}
