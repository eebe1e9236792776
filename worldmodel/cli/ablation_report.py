"""The table of `worldmodel ablate`, read from the figures of its runs: table.json, table.txt and table.png."""

from __future__ import annotations

import json
import math
import statistics
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from worldmodel.train.ablation_tables import TABLES, AblationRow
from worldmodel.train.training_config import LoopConfig

if TYPE_CHECKING:
    from worldmodel.cli.ablate_command import Ablate

LINE = 120  # characters of a line above the table
# Quantiles 0.975 of Student's t with 1, 2, ... degrees of freedom; the last one also for more.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
NOT_RECORDED = "not recorded here"
NOT_SEPARATED = "not separated at this budget"
# figure -> heading, format; the first one decides
TOKENIZER_COLUMNS = {"nmse": ("NMSE", ".5f"), "psnr": ("PSNR, dB", ".2f"), "perplexity": ("perplexity", ".1f")}
PRIOR_COLUMNS = {
    "nats_per_code": ("nats/code", ".4f"),
    "bits_per_code": ("bits/code", ".4f"),
    "bits_per_dim": ("bits/dim of pixels", ".5f"),
}
COUNTS = ("codes", "parameters", "steps")
# The paper's sizes (tables 8 and 9, BAIR) by field of `ClipTraining`.
PAPER_TOKENIZER = {
    "tokenizer.width": 240,
    "tokenizer.residual_width": 128,
    "tokenizer.num_layers": 4,
    "tokenizer.num_codes": 1024,
    "tokenizer.code_dim": 256,
    "tokenizer.time_stride": 2,
    "tokenizer.space_stride": 2,
    "train_tokenizer.batch_size": 32,
    "train_tokenizer.learning_rate": 7e-4,
}
PAPER_PRIOR = {
    "prior.width": 512,
    "prior.num_heads": 4,
    "prior.feedforward": 4,
    "prior.dropout": 0.2,
    "train_prior.batch_size": 32,
    "train_prior.learning_rate": 3e-4,
}


def interval(values: list[float]) -> dict[str, Any]:
    """Mean of the seeds with its 95 % interval by Student's t: {mean, low, high, values}; no interval of one seed."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None, "values": values}
    quantile = T_QUANTILES[min(len(values) - 2, len(T_QUANTILES) - 1)]
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half, "values": values}


def verdicts(figures: list[dict[str, Any] | None]) -> list[str]:
    """The verdict on each row: its interval, as from `interval`, compared with that of the row of the lowest mean."""
    found = [figure for figure in figures if figure is not None]
    if len(found) < 2:
        return [""] * len(figures)
    best = min(found, key=lambda figure: figure["mean"])
    return [_verdict(figure, best) for figure in figures]


def _verdict(figure: dict[str, Any] | None, best: dict[str, Any]) -> str:
    if figure is None:
        return ""
    if figure is best:
        return "lowest mean"
    if figure["low"] is None or best["low"] is None:
        return "one seed, no interval"
    return "higher than the lowest" if figure["low"] > best["high"] else NOT_SEPARATED


def table_result(config: Ablate, rows: list[AblationRow]) -> dict[str, Any]:
    """The table of the runs that are finished.

    Returns:
        JSON: `table`, `title`, `measure` (the figure that decides; lower is better), `data`, `split`, `clips`,
        `budget` and `sizes` (sentences), `seeds`, and `rows`: `row`, `folder`, `figures` (name -> mean, low, high and
        values of the seeds; None before a run is finished), `paper` (name -> value) and `verdict`.
    """
    columns = PRIOR_COLUMNS if config.is_of_priors else TOKENIZER_COLUMNS
    measure, found, clips = next(iter(columns)), [], 0
    for row in rows:
        paths = [config.score_path(row, seed) for seed in config.seeds]
        scores = [json.loads(path.read_text()) for path in paths if path.exists()]
        names = scores[0] if scores else {}
        found.append({name: interval([float(score[name]) for score in scores]) for name in names})
        clips = max([clips, *(score["clips"] for score in scores)])
    decided = verdicts([figures.get(measure) for figures in found])
    return {
        "table": config.table,
        "title": TABLES[config.table].title,
        "measure": measure,
        "data": [path.name for path in config.data],
        "split": config.split,
        "clips": clips,
        "budget": budget_text(config),
        "sizes": sizes_text(config),
        "seeds": list(config.seeds),
        "rows": [
            {
                "row": row.label,
                "folder": row.folder,
                "figures": figures or None,
                "paper": row.paper,
                "verdict": verdict,
            }
            for row, figures, verdict in zip(rows, found, decided, strict=True)
        ],
    }


def budget_text(config: Ablate) -> str:
    """The budget of a run."""
    tokenizer, prior = (_length(loop) for loop in (config.base.train_tokenizer, config.base.train_prior))
    return f"{prior}, after {tokenizer} for the shared tokenizer" if config.is_of_priors else tokenizer


def _length(loop: LoopConfig) -> str:
    if loop.num_steps:
        return f"{loop.num_steps} steps"
    return f"{loop.minutes:.3g} minutes of {'processor' if loop.clock == 'processor' else 'wall-clock'} time"


def sizes_text(config: Ablate) -> str:
    """Sizes that differ from the paper's for BAIR, except those that the table varies."""
    values, differences = asdict(config.training), []
    for name, paper in (PAPER_TOKENIZER | (PAPER_PRIOR if config.is_of_priors else {})).items():
        part, _, attribute = name.partition(".")
        value = values[part][attribute]
        if name not in TABLES[config.table].varied and value != paper:
            differences.append(f"{name} {value:g} ({paper:g})")
    return f"reduced (paper's in brackets): {', '.join(differences)}" if differences else "those of the paper for BAIR"


def format_table(result: dict[str, Any]) -> str:
    """The table as text; only the figure that decides has its interval."""
    columns = PRIOR_COLUMNS if result["measure"] in PRIOR_COLUMNS else TOKENIZER_COLUMNS
    head = ["row", *(heading for heading, _ in columns.values()), *COUNTS, "paper", "verdict"]
    lines = [head]
    for row in result["rows"]:
        figures = row["figures"] or {}
        cells = [_text(figures.get(name), spec, name == result["measure"]) for name, (_, spec) in columns.items()]
        counts = [f"{figures[name]['mean']:,.0f}" if figures else "-" for name in COUNTS]
        lines.append([row["row"], *cells, *counts, _paper_text(row["paper"]), row["verdict"]])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    number, heading = result["table"].removeprefix("table"), columns[result["measure"]][0]
    seeds, data = ", ".join(map(str, result["seeds"])), ", ".join(result["data"])
    notes = (
        f"Table {number}: {result['title']}",
        f"{result['clips']} clips of the {result['split']} split of {data}; lower {heading} is better",
        f"budget of a run: {result['budget']}; seeds {seeds}; 95 % intervals over seeds (Student's t)",
        f"sizes: {result['sizes']}",
        "the paper's figures are of its own data, sizes and 100,000 steps or more; its bits/dim are nats per code",
    )
    return "\n".join([*(textwrap.fill(note, LINE, subsequent_indent="  ") for note in notes), "", *shown])


def _text(figure: dict[str, Any] | None, spec: str, with_interval: bool) -> str:
    if figure is None:
        return "-"
    if figure["low"] is None or not with_interval:
        return format(figure["mean"], spec)
    return f"{figure['mean']:{spec}} [{figure['low']:{spec}}, {figure['high']:{spec}}]"


def _paper_text(paper: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in paper.items()) or NOT_RECORDED


def write_table(config: Ablate, rows: list[AblationRow]) -> dict[str, Any]:
    """Write table.json, table.txt and, if a run is finished, table.png, atomically; returns the table."""
    from worldmodel.common.files import write_bytes_atomic, write_json_atomic, write_text_atomic

    result = table_result(config, rows)
    path, picture = config.out / "table.json", config.out / "table.png"
    if not path.exists() or json.loads(path.read_text()) != result or not picture.exists():
        write_json_atomic(path, result)
        write_text_atomic(config.out / "table.txt", format_table(result) + "\n")
        if any(row["figures"] for row in result["rows"]):
            write_bytes_atomic(picture, table_plot(result))
    return result


def table_plot(result: dict[str, Any]) -> bytes:
    """Means with intervals, and the seeds as dots, one row each, as a PNG."""
    from worldmodel.cli.plots import new_figure, png_bytes

    rows = [row for row in result["rows"] if row["figures"]]
    figure, (axis,) = new_figure(7, 1.6 + 0.45 * len(rows), 1)
    for y, row in enumerate(rows):
        values = row["figures"][result["measure"]]
        if values["low"] is not None:
            axis.plot([values["low"], values["high"]], [y, y], color="C0", linewidth=2)
        axis.plot(values["values"], [y] * len(values["values"]), "o", color="0.6", markersize=4)
        axis.plot(values["mean"], y, "D", color="C0", markersize=6)
    axis.set_yticks(range(len(rows)), [row["row"] for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    heading = (TOKENIZER_COLUMNS | PRIOR_COLUMNS)[result["measure"]][0]
    axis.set_xlabel(f"{heading}, {result['split']} split; grey: seeds, bar: 95 % interval")
    axis.set_title(textwrap.fill(f"{result['title']}, {result['budget']} a run", 80), fontsize=10)
    axis.grid(axis="x", alpha=0.3)
    return png_bytes(figure)
