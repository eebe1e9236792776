"""Evaluation of a world: every requested metric, as data and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from worldmodel.common.assets import find_asset
from worldmodel.common.torch_state import isolated_torch_state
from worldmodel.data import Dataset
from worldmodel.metrics import free_run, policy_order
from worldmodel.metrics import ladder as held_out_ladder
from worldmodel.metrics.environment_rules import EnvironmentRules
from worldmodel.metrics.evaluation_run import EvaluationRun, EvaluationSettings, LadderPolicy, PolicyFactory, Progress
from worldmodel.metrics.frame_scores import MAX_BRIGHT
from worldmodel.metrics.learned_distances import fvd_note
from worldmodel.metrics.metric_registry import select_metrics
from worldmodel.metrics.opposite_actions import opposite_values
from worldmodel.world.world_model import WorldModel


@isolated_torch_state()
def evaluate(
    world: WorldModel,
    data: Dataset,
    policies: Mapping[str, PolicyFactory],
    settings: EvaluationSettings = EvaluationSettings(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
    rules: EnvironmentRules = EnvironmentRules(),  # noqa: B008 (frozen)
    ladder: Sequence[LadderPolicy] = (),
) -> dict[str, Any]:
    """Evaluate a world on recordings that it was not trained on.

    Args:
        world: the learned world.
        data: recordings of its environment.
        policies: policies for the free run, by the policy name of their recorded episodes. Each is called as
            (seed, rows) and returns a function from the current frames, (rows, H, W, 3) uint8, to actions.
        settings: how to evaluate.
        progress: called as (stage, done, total, {}).
        rules: what the environment declares about objects and opposite actions.
        ladder: policies of the held-out ladder, for the metrics of that section.

    Returns:
        JSON, the same for the same arguments: `environment`; `split`; `settings`; `notes`, sentences; `sections`:
        heading -> metric -> `description`, `unit`, `better` and `values`, each with `label`, `value`, `baselines` and
        `verdict`. Every number has its 95 % interval (`mean`, `low`, `high`).

    Raises:
        UserError: an unknown metric, data that the world cannot be evaluated on, or an asset that a metric needs is not
            in the cache and cannot be fetched.
    """
    metrics = select_metrics(settings.metrics)
    for asset in sorted({asset for metric in metrics for asset in metric.assets}):
        find_asset(asset)  # a missing file is known before the dreams
    run = EvaluationRun(world, data, policies, settings, progress, rules, ladder)
    sections: dict[str, dict[str, Any]] = {}
    for metric in metrics:
        values = metric.function(run)
        sections.setdefault(metric.section, {})[metric.name] = {
            "description": metric.description,
            "unit": metric.unit,
            "better": metric.better,
            "values": [value.to_json() for value in values],
        }
    return {
        "environment": world.spec.env,
        "split": settings.split,
        "settings": asdict(settings),
        "notes": _notes(run, sections),
        "sections": sections,
    }


def _notes(run: EvaluationRun, sections: Mapping[str, Any]) -> list[str]:
    """What a reader must know to interpret the values."""
    notes, world, data = [], run.world, run.data
    if data.fingerprint != world.spec.dataset:
        notes.append("The world was trained on another dataset: its splits are not those of this one.")
    if "clips" in vars(run) and len(run.clips.episodes) < run.settings.clips:
        notes.append(f"Only {len(run.clips.episodes)} clips of {run.length} frames fit into the split.")
    if "train" in vars(run):
        notes.append(
            f"Small bright pixels: their largest colour is above {run.train.bright_threshold} of 255, in frames of "
            f"which at most {MAX_BRIGHT:.0%} is bright (others flash)."
        )
    names = {name for metrics in sections.values() for name in metrics}
    if "permanence" in names and run.rules.objects is None:
        notes.append("Permanence is not measured: the environment declares no rule that finds small objects.")
    if "opposite_actions" in names and not opposite_values(run):
        notes.append("Opposite actions are not tested: the environment declares none.")
    if "fvd" in names:
        notes.append(fvd_note(run))
    if held_out_ladder.SECTION in sections:
        notes += held_out_ladder.notes(run)
    if free_run.SECTION in sections:
        notes += _free_run_notes(run, sections[free_run.SECTION])
    return notes


def _free_run_notes(run: EvaluationRun, metrics: Mapping[str, Any]) -> list[str]:
    """Notes on the section of the free run."""
    data, sources = run.data, free_run.sources(run)
    notes = [f"Free run of {name}: real values from {source}." for name, source in sources.items()]
    same_data = data.fingerprint == run.world.spec.dataset
    if same_data and any("validation" in source for source in sources.values()):
        notes.append(
            "Hazards are calibrated on the validation split after training, and validation episodes are among these "
            "real values: rates of ends and steps survived are not fully held out."
        )
    absent = [name for name in data.header.policy_names if name not in sources]
    if absent:
        notes.append(f"Recorded, but not played in the dream: {', '.join(absent)}.")
    if len(sources) < 2:
        notes.append("There are fewer than two policies, so their order is not evaluated.")
    elif "policy_order" in metrics:
        found = [c for c in run.cached(policy_order.comparisons) if c.counts]
        notes.append(
            f"Policy order: of {len(found)} comparisons that count, {sum(bool(c.value.verdict) for c in found)} are "
            f"significant in reality, at 5 % each: about {0.05 * len(found):.1f} would be by chance if policies did "
            "not differ. The interval of the share treats comparisons as independent; there is none where all agree."
        )
    return notes


def table(result: Mapping[str, Any]) -> str:
    """The result of `evaluate` as text: one line per value, with its baselines, intervals in brackets."""
    lines = [f"{result['environment']}, {result['split']} split; 95 % intervals over episodes and dreams"]
    return "\n".join([*lines, *result["notes"], *section_lines(result["sections"])])


def section_lines(sections: Mapping[str, Any]) -> list[str]:
    """Sections of a result as lines of text: one line per value, with its baselines, intervals in brackets."""
    lines: list[str] = []
    directions = {"higher": "higher is better", "lower": "lower is better", "real": "nearer to real is better"}
    for section, metrics in sections.items():
        lines += ["", section.upper()]
        for name, metric in metrics.items():
            lines.append(f"{name} ({metric['unit']}; {directions[metric['better']]}): {metric['description']}")
            lines += _rows(metric["values"]) or ["    there is no data to measure it"]
            if metric.get("details"):
                lines.append("    " + "; ".join(f"{what}: {text}" for what, text in metric["details"].items()))
    return lines


def _rows(values: list[Mapping[str, Any]]) -> list[str]:
    """Values of one metric as aligned lines."""
    cells = [_cells(value) for value in values]
    columns = max((len(row) for row in cells), default=0)
    cells = [row + [""] * (columns - len(row)) for row in cells]
    widths = [max(len(row[i]) for row in cells) for i in range(columns)]
    lines = []
    for row in cells:
        words = (cell.ljust(width) for cell, width in zip(row, widths, strict=True) if width)
        lines.append("    " + "  ".join(words).rstrip())
    return lines


def _cells(value: Mapping[str, Any]) -> list[str]:
    baselines = [f"{name} {_text(estimate)}" for name, estimate in value["baselines"].items()]
    verdict = [value["verdict"]] if value["verdict"] else []
    number = _text(value["value"])
    if "trials" in value:
        number += f" ± {value['deviation']:.4g} ({len(value['trials'])} trials)"
    return [value["label"], number, *baselines, *verdict]


def _text(estimate: Mapping[str, float | None]) -> str:
    numbers = [f"{x:.4g}" if x is not None else "-" for x in (estimate["mean"], estimate["low"], estimate["high"])]
    return numbers[0] if estimate["low"] is None else f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"
