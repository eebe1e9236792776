"""A world judged: every metric asked for, as data and as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from worldmodel.data import Dataset
from worldmodel.metrics import free_run as freerun
from worldmodel.metrics import policy_order as orders
from worldmodel.metrics.frame_scores import SMALL
from worldmodel.metrics.metric_registry import chosen
from worldmodel.metrics.world_trial import EvaluationSettings, PolicyFactory, Progress, WorldTrial
from worldmodel.world.world_model import WorldModel


def evaluate(
    world: WorldModel,
    data: Dataset,
    policies: Mapping[str, PolicyFactory],
    settings: EvaluationSettings = EvaluationSettings(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Judge a world on recordings it did not learn from.

    Args:
        world: the learned world.
        data: recordings of its environment.
        policies: policies for the free run, by the name that their recorded episodes carry. Each is called as
            (seed, rows) and returns a function from the frames now shown, (rows, H, W, 3) uint8, to actions.
        settings: how.
        progress: called as (stage, done, in all, {}).

    Returns:
        JSON, the same for the same arguments: `settings`; `notes`, sentences; `sections`: heading ->
        metric -> `says`, `unit`, `better` and `figures`, each `of`, `value`, `beside` and `verdict`, every
        number with its 95 % interval (`mean`, `low`, `high`).

    Raises:
        UserError: an unknown metric, or data that the world cannot be judged on.
    """
    metrics = chosen(settings.metrics)
    trial = WorldTrial(world, data, policies, settings, progress)
    sections: dict[str, dict[str, Any]] = {}
    for metric in metrics:
        figures = metric.function(trial)
        sections.setdefault(metric.section, {})[metric.name] = {
            "says": metric.says,
            "unit": metric.unit,
            "better": metric.better,
            "figures": [figure.to_json() for figure in figures],
        }
    return {
        "environment": world.spec.env,
        "split": settings.split,
        "settings": asdict(settings),
        "notes": _notes(trial, sections),
        "sections": sections,
    }


def _notes(trial: WorldTrial, sections: Mapping[str, Any]) -> list[str]:
    """What a reader must know of how the figures came about."""
    notes, world, data = [], trial.world, trial.data
    if data.fingerprint != world.spec.dataset:
        notes.append("The world was learned from another dataset: its splits are not these.")
    if "clips" in vars(trial) and len(trial.clips.episodes) < trial.settings.clips:
        notes.append(f"Only {len(trial.clips.episodes)} clips of {trial.length} frames fit into the split.")
    if "train" in vars(trial):
        notes.append(
            f"Small bright things: pixels above {trial.train.bright} of 255 in their largest colour, in frames at most "
            f"{SMALL:.0%} bright (others flash)."
        )
    if freerun.SECTION in sections:
        played = freerun.sources(trial)
        notes += [f"Free run of {name}: real figures from {source}." for name, source in played.items()]
        if data.fingerprint == world.spec.dataset and any("validation" in source for source in played.values()):
            notes.append(
                "Ends are fitted to the validation split after training, and validation episodes are among these real "
                "figures: rates of ends and lives are not wholly held out."
            )
        absent = [name for name in data.header.policy_names if name not in played]
        if absent:
            notes.append(f"Recorded, but not played in the dream: {', '.join(absent)}.")
        if len(played) < 2:
            notes.append("Fewer than two policies can be compared, so no order is judged.")
        elif "orders" in sections[freerun.SECTION]:
            found = [c for c in trial.once(orders.comparisons) if c.counts]
            notes.append(
                f"Orders: of {len(found)} comparisons that count, reality decided "
                f"{sum(bool(c.figure.verdict) for c in found)}, at 5 % each: about {0.05 * len(found):.1f} would be "
                "decided by chance were there no difference at all. The interval of the share takes them for "
                "independent; none is told where all agree."
            )
    return notes


def table(result: Mapping[str, Any]) -> str:
    """The result of `evaluate` as text: one line a figure, its rivals beside it, intervals in brackets."""
    lines = [f"{result['environment']}, {result['split']} split; 95 % intervals over episodes and dreams"]
    lines += result["notes"]
    arrows = {"higher": "higher is better", "lower": "lower is better", "real": "nearer to real is better"}
    for section, metrics in result["sections"].items():
        lines += ["", section.upper()]
        for name, metric in metrics.items():
            lines.append(f"{name} ({metric['unit']}; {arrows[metric['better']]}): {metric['says']}")
            cells = [_cells(figure) for figure in metric["figures"]]
            if not cells:
                lines.append("    nothing here to measure it by")
            columns = max((len(row) for row in cells), default=0)
            cells = [row + [""] * (columns - len(row)) for row in cells]
            widths = [max(len(row[i]) for row in cells) for i in range(columns)]
            for row in cells:
                words = (cell.ljust(width) for cell, width in zip(row, widths, strict=True) if width)
                lines.append("    " + "  ".join(words).rstrip())
    return "\n".join(lines)


def _cells(figure: Mapping[str, Any]) -> list[str]:
    beside = [f"{name} {_text(value)}" for name, value in figure["beside"].items()]
    verdict = [figure["verdict"]] if figure["verdict"] else []
    return [figure["of"], _text(figure["value"]), *beside, *verdict]


def _text(value: Mapping[str, float | None]) -> str:
    numbers = [f"{x:.4g}" if x is not None else "-" for x in (value["mean"], value["low"], value["high"])]
    return numbers[0] if value["low"] is None else f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"
