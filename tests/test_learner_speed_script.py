"""benchmarks/learner_speed.py: every setting is varied alone, and every figure is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "learner_speed.py"


@pytest.mark.slow
def test_the_quick_benchmark_of_learners_writes_its_figures(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    command = [
        sys.executable,
        str(SCRIPT),
        "--quick",
        "--world",
        "toy",
        "--only",
        "hold",
        "last_action",
        "--out",
        str(out),
    ]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    rows = json.loads(out.read_text())["rows"]
    assert [row["setting"] for row in rows] == ["base", "hold 2", "hold 4", "last_action True"]
    for row in rows:
        assert row["decisions/s"] > 0
        assert sum(value for name, value in row.items() if name.startswith("share")) == pytest.approx(1)
        assert f"| {row['setting']} |" in printed
    assert rows[0]["times base"] == 1
