"""The table of world repairs, from files as `eval world` writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def value(label: str, mean: float, **baselines: float) -> dict[str, Any]:
    return {
        "label": label,
        "value": {"mean": mean, "low": mean - 0.1, "high": mean + 0.1},
        "baselines": {name.replace("_", " "): {"mean": x} for name, x in baselines.items()},
        "verdict": "too high in the dream",
    }


def test_the_table_has_the_rows_that_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from world_repairs import table

    shares = "1.00 / 0.25 / 0.12 / 0.07"
    found = [value(f"fireball, {ahead} ahead", 1 / ahead) for ahead in (1, 2, 4, 8, 15)]
    sections = {
        "likelihood": {"nats": {"values": [value("true actions", 2.06)]}},
        "ladder": {
            "ladder_rank": {"values": [value("16 policies", 0.7)]},
            "ladder_ratio": {"values": [value("periodic:14", 2.5, median_policy=1.3)]},
        },
        "permanence": {"permanence": {"values": found}, "permanence_precision": {"values": found}},
    }
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "evaluation.json").write_text(json.dumps({"sections": sections}))
    assert "mirror" not in table(tmp_path), "an evaluation without its row is not done"
    facts = {"row": "mirror", "about": "mirror augmentation", "minutes": 30.0}
    (folder / "row.json").write_text(json.dumps(facts))
    *_, line = table(tmp_path).splitlines()
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        *("mirror", "mirror augmentation", "2.06 [1.96, 2.16]", shares, shares),
        *("0.70 [0.60, 0.80]", "2.50 [2.40, 2.60] (periodic:14, too high in the dream)", "1.30", "30"),
    ]
