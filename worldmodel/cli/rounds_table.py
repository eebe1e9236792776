"""The table of rounds of `worldmodel loop`, read from the files of the stages: rounds.json, rounds.png and text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from worldmodel.cli.round_folder import RoundFolder
from worldmodel.cli.rounds_config import RoundsConfig

BASELINES = ("random", "periodic")  # policies that play the same seeds in the environment


def round_rows(config: RoundsConfig) -> list[dict[str, Any]]:
    """One row for each round that has begun; figures of stages that are not finished are None.

    Each row has the round's number; `real_frames`, recorded so far in all rounds; `dream_return`, `real_return` and
    the returns of `random` and, if the environment has it, `periodic` play on the same seeds, each as {mean, low,
    high} with a 95 % interval; `ratio`, dream over real return; `metrics`, the first figure of each metric; `decisions`
    of the policy's training; and `minutes` of all finished stages of the round.
    """
    seconds = _read(config.out / "seconds.json") or {}
    rows: list[dict[str, Any]] = []
    frames = 0
    for number in range(1, config.rounds + 1):
        files = RoundFolder.of(config.out, number)
        counts = _read(files.counts)
        if counts is None:
            break
        frames += counts["frames"]
        dream, real = _read(files.dream), (_read(files.real) or {"rows": []})["rows"]
        row: dict[str, Any] = {"round": number, "real_frames": frames}
        row["dream_return"] = _interval(dream)
        row["real_return"] = _interval(real[0]) if real else None
        row["ratio"] = _ratio(row["dream_return"], row["real_return"])
        row |= {baseline["policy"]: _interval(baseline) for baseline in real[1:]}
        row["metrics"] = _first_figures(_read(files.metrics))
        row["decisions"] = (_read(files.policy / "policy.json") or {"result": {}})["result"].get("decisions")
        row["minutes"] = sum(value for name, value in seconds.items() if name.startswith(f"round {number}: ")) / 60
        rows.append(row)
    return rows


def write_rounds(config: RoundsConfig) -> list[dict[str, Any]]:
    """Write rounds.json and, if a round is finished, rounds.png, atomically; returns the rows."""
    from worldmodel.common.files import write_bytes_atomic, write_json_atomic

    rows = round_rows(config)
    content = {"env": config.env, "rounds": rows}
    table, plot = config.out / "rounds.json", config.out / "rounds.png"
    if _read(table) != content or not plot.exists():
        write_json_atomic(table, content)
        finished = [row for row in rows if row["dream_return"] and row["real_return"]]
        if finished:
            write_bytes_atomic(plot, _plot(finished))
    return rows


def format_rounds(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    metrics = sorted({name for row in rows for name in row["metrics"]})
    baselines = [name for name in BASELINES if any(row.get(name) for row in rows)]
    head = ["round", "real frames", "dream return", "real return", "dream / real", *baselines, *metrics, "minutes"]
    lines = [head]
    for row in rows:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        figures = [row["metrics"].get(name) for name in metrics]
        lines.append(
            [
                str(row["round"]),
                f"{row['real_frames']:,}",
                _text(row["dream_return"]),
                _text(row["real_return"]),
                ratio,
                *(_text(row.get(name)) for name in baselines),
                *("" if figure is None else f"{figure:.3g}" for figure in figures),
                f"{row['minutes']:.1f}",
            ]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)


def _plot(rows: list[dict[str, Any]]) -> bytes:
    """Returns in dreams and outside by round, and by real frames, as a PNG."""
    from worldmodel.cli.plots import line_plots

    names = [name for name in ("dream_return", "real_return", *BASELINES) if all(row.get(name) for row in rows)]

    def lines(key: str) -> list[tuple[str, list[float], list[float]]]:
        xs = [row[key] for row in rows]
        return [(name.replace("_", " "), xs, [row[name]["mean"] for row in rows]) for name in names]

    return line_plots([("round", "return", lines("round")), ("real frames", "return", lines("real_frames"))])


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def _interval(row: dict[str, Any] | None) -> dict[str, float] | None:
    return None if row is None else {"mean": row["return_mean"], "low": row["low"], "high": row["high"]}


def _ratio(dream: dict[str, float] | None, real: dict[str, float] | None) -> float | None:
    return None if dream is None or real is None or not real["mean"] else dream["mean"] / real["mean"]


def _first_figures(evaluation: dict[str, Any] | None) -> dict[str, float | None]:
    """Metric -> the mean of its first figure, of a result of `eval world`."""
    sections = {} if evaluation is None else evaluation["sections"]
    return {
        name: metric["values"][0]["value"]["mean"]
        for section in sections.values()
        for name, metric in section.items()
        if metric["values"]
    }


def _text(interval: dict[str, float] | None) -> str:
    return "" if interval is None else f"{interval['mean']:.1f} [{interval['low']:.1f}, {interval['high']:.1f}]"
