"""benchmarks/worlds_table.py: every figure of an evaluation is in its row, and a missing one is a dash."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import untrained
from recordings import make_episode, make_header, write_part

from worldmodel.cli.eval_world import policies_of
from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec
from worldmodel.data import Dataset, seal
from worldmodel.metrics import EnvironmentRules, EvaluationSettings, evaluate

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every metric of an untrained world, with an object in every frame, as JSON."""
    folder, space = tmp_path_factory.mktemp("evaluation"), spaces.Discrete(3)
    labels = ("stay", "left", "right")
    header = make_header(
        num_episodes=20, pixels=PixelSpec((16, 16)), action_space=space, action_labels=labels, variables=("lives",)
    )
    part = write_part(folder / "a.part", header, [make_episode(header, i, 20) for i in range(20)])
    settings = EvaluationSettings(clips=4, ahead=15, horizon=4, rows=2, inverse_steps=2, metrics=("all",))
    rules = EnvironmentRules(lambda frame: [("corner", 0.0, 0.0)], (("left", "right"),))
    with Dataset(seal([part], folder / "a.h5")) as data:
        result = evaluate(untrained.make_world(space), data, policies_of(data), settings, rules=rules)
    return json.loads(json.dumps(result))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import worlds_table

    return worlds_table


def cells(text: str) -> dict[str, list[str]]:
    """Row label -> cells."""
    lines = [[cell.strip() for cell in line.strip("| \n").split(" | ")] for line in text.splitlines()]
    return {label: rest for label, *rest in lines[2:]}


def mean(evaluation: dict[str, Any], section: str, metric: str, label: str) -> str:
    value = next(v for v in evaluation["sections"][section][metric]["values"] if v["label"] == label)
    return f"{value['value']['mean']:.3g}"


def test_every_figure_is_in_the_cell_of_its_world(evaluation: dict[str, Any], script: Any) -> None:
    without = {**evaluation, "sections": {"likelihood": evaluation["sections"]["likelihood"]}}
    text = script.table({"a": evaluation, "b": without}, {"b": 412.0})
    assert text.splitlines()[0] == "|  | a | b |"
    found = cells(text)
    assert all(len(row) == 2 for row in found.values())
    nats = mean(evaluation, "likelihood", "nats", "true actions")
    assert found["likelihood, nats/code"][0].startswith(f"{nats} [")
    assert found["likelihood, nats/code"][1] == found["likelihood, nats/code"][0]
    delta = mean(evaluation, "obedience", "delta_psnr", "8 ahead")
    assert found["delta-PSNR, 8 ahead, dB"][0].startswith(f"{delta} [")
    assert found["delta-PSNR, 8 ahead, dB"][1] == "-"
    assert "(repeat last " in found["PSNR, 15 ahead, dB"][0]
    assert found["opposite actions, share in order"][0].startswith("left / right, 4 steps: ")
    assert found["permanence, 4 ahead"][0].startswith("1 [1, 1] (repeat last 1")
    assert found["whole steps/s"] == ["-", "412"]
    columns = list(zip(*found.values(), strict=True))
    assert "-" not in columns[0][:4]
    assert set(columns[1][2:-1]) == {"-"}


def test_labels_of_policies_and_kinds(script: Any) -> None:
    def value(label: str, mean: float, **baselines: float) -> dict[str, Any]:
        bounds = {name: {"mean": x, "low": None, "high": None} for name, x in baselines.items()}
        return {"label": label, "value": {"mean": mean, "low": None, "high": None}, "baselines": bounds, "verdict": ""}

    rate = [value("random, 10 steps", 0.1, real=0.2), value("random, 80 steps", 0.3, real=0.4)]
    permanence = [value("all, 1 ahead", 0.5), value("toy, 1 ahead", 0.7)]
    sections = {"x": {"end_rate": {"values": rate}, "permanence": {"values": permanence}}}
    found = cells(script.table({"a": {"environment": "toy", "sections": sections}}))
    assert found["ends per step, free run"] == ["random, 80 steps: 0.3 (real 0.4)"]
    assert found["permanence, 1 ahead"] == ["0.5"]
    assert "whole steps/s" not in found
    assert [script.number(x) for x in (None, 0.01234, 1234.5, np.nan)] == ["-", "0.0123", "1234", "nan"]


def test_files_are_read_and_written(evaluation: dict[str, Any], script: Any, tmp_path: Path) -> None:
    path, out = tmp_path / "evaluation.json", tmp_path / "docs" / "table.md"
    path.write_text(json.dumps({**evaluation, "environment": "worldmodel/Push-v0"}))
    assert list(script.read_evaluations([str(path), f"again={path}"])) == ["push", "again"]
    result = tmp_path / "result.json"
    result.write_text(json.dumps({"stages": {"evaluate": {"figures": evaluation}}}))
    assert script.read_evaluations([f"gpu={result}"]) == {"gpu": evaluation}
    with pytest.raises(UserError, match="two columns are called 'push'"):
        script.read_evaluations([str(path), str(path)])
    for text in ("{}", "[", "[]"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(UserError, match=r"bad.json is no output of 'worldmodel eval world'"):
            script.read_evaluations([str(tmp_path / "bad.json")])
    with pytest.raises(UserError, match="wanted NAME=NUMBER"):
        script.parse_speeds(["push"])
    with pytest.raises(UserError, match=r"--steps names \['pull'\]; the columns are push"):
        script.table(script.read_evaluations([str(path)]), {"pull": 1.0})
    command = [sys.executable, str(BENCHMARKS / "worlds_table.py"), str(path), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == out.read_text()
    assert "push" in done.stdout
