"""The figures with which the demo's page opens."""

from __future__ import annotations

from typing import Any

from worldmodel.cli.html_page import Section
from worldmodel.cli.key_figures import key_figures


def estimate(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 1, "high": mean + 1}


def metric(label: str, mean: float, **baselines: float) -> dict[str, Any]:
    found = {name.replace("_", " "): estimate(value) for name, value in baselines.items()}
    return {"values": [{"label": label, "value": estimate(mean), "baselines": found}]}


EVALUATION = {
    "sections": {
        "free run": {"steps_survived": metric("random, 80 steps", 61.2, real=70.4)},
        "likelihood": {"nats": metric("true actions", 2.12, other_actions=3.61, bigram=4.0)},
        "prediction": {"psnr": metric("1 ahead", 31.46, repeat_last=29.0)},
    }
}
ROWS = [
    {"policy": "dreamer", "return_mean": 400.2},
    {"policy": "random", "return_mean": 285.0, "first_minus_this": {"mean": 115.2, "low": 60.0, "high": 170.0}},
    {"policy": "periodic", "return_mean": 1005.7, "first_minus_this": {"mean": -605, "low": -740.0, "high": -480.0}},
]


def test_five_figures_with_their_baselines() -> None:
    figures = key_figures({"steps_per_second": {"1": 425.0, "64": 1589.0}}, EVALUATION, ROWS, "toy")
    assert [figure for figure, _ in figures] == ["400", "61", "1.49", "31.5 dB", "1,589"]
    words = ["285 on the same seeds: better (difference +115", "80 steps at most", "3.61 with others", "29.0 dB", "425"]
    assert "For comparison: periodic play 1006." in figures[0][1], "a better baseline is shown too"
    for (_, text), word in zip(figures, words, strict=True):
        assert word in text


def test_what_was_not_measured_is_left_out_and_no_verdict_is_flattering() -> None:
    row = {"policy": "random", "return_mean": 285.0, "first_minus_this": {"mean": -24.0, "low": -65.0, "high": 16.0}}
    figures = key_figures({"steps_per_second": {}}, {"sections": {}}, [ROWS[0], row], "toy")
    assert len(figures) == 1
    assert "no significant difference" in figures[0][1]
    row["first_minus_this"] = {"mean": -90.0, "low": -120.0, "high": -50.0}
    assert "worse" in key_figures({"steps_per_second": {}}, {"sections": {}}, [ROWS[0], row], "toy")[0][1]


def test_figures_are_escaped_in_the_page() -> None:
    assert Section("x").figures([("<1", "a & b")]).blocks == ["<dl><dt>&lt;1</dt><dd>a &amp; b</dd></dl>"]
