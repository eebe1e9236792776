"""benchmarks/hit_forecast.py: areas under the curve, and a rehearsal on real take-cover."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from worldmodel.collect import record

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "hit_forecast.py"


def test_the_area_is_the_share_of_pairs_in_the_right_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import hit_forecast

    rng = np.random.default_rng(0)
    forecast, labels = rng.integers(0, 9, 60).astype(float), rng.random(60) < 0.4
    pairs = forecast[labels][:, None] - forecast[~labels]
    assert hit_forecast.area(forecast, labels) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())


@pytest.mark.slow
def test_a_rehearsal_measures_world_and_network_on_the_same_states(tmp_path: Path) -> None:
    data = record("doom/take-cover", "random", tmp_path / "data.h5", episodes=60, progress=False)
    words = ["--world", "doom-take-cover-small", "--data", str(data), "--out", str(tmp_path / "out.json")]
    small = ["--test", "20", "--train", "60", "--epochs", "1", "--dreams", "2", "--ahead", "4"]
    subprocess.run([sys.executable, str(SCRIPT), *words, *small], check=True, timeout=600)
    report = json.loads((tmp_path / "out.json").read_text())
    assert 2 <= report["test states"] <= 40
    assert report["training states"] == 120
    assert set(report["areas"]) == {"world", "network"}
    assert all(0 <= area <= 1 for row in report["areas"].values() for area in row.values())
