"""The registries of metrics: of worlds, and of sets of clips.

A new metric of worlds is a function and a row; a new metric of clips is an accumulator and a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from worldmodel.common.errors import UserError, unknown_name
from worldmodel.metrics import (
    action_effect,
    action_recognition,
    feature_distances,
    frechet_clips,
    free_run,
    inception_score,
    ladder,
    learned_distances,
    likelihood,
    opposite_actions,
    outcomes,
    paired_clips,
    permanence,
    policy_order,
    prediction,
    reconstruction,
)
from worldmodel.metrics.clip_metric import ClipMetric
from worldmodel.metrics.metric import Metric

Row = TypeVar("Row", Metric, ClipMetric)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for module in (
        policy_order,
        free_run,
        ladder,
        action_effect,
        action_recognition,
        opposite_actions,
        permanence,
        likelihood,
        prediction,
        learned_distances,
        outcomes,
        reconstruction,
    )
    for metric in module.ROWS
}
CLIP_METRICS: dict[str, ClipMetric] = {
    metric.name: metric
    for module in (feature_distances, frechet_clips, inception_score, paired_clips)
    for metric in module.CLIP_ROWS
}
ALL = "all"
FORMER_NAMES = {"life": "steps_survived", "orders": "policy_order"}  # still accepted
FORMER_CLIP_NAMES = {"clip_psnr": "psnr", "clip_ssim": "ssim"}


def register(metric: Metric) -> None:
    """Add a metric of worlds; it is evaluated and reported like the others.

    Raises:
        UserError: the name is taken, or `better` is none of higher, lower, real.
    """
    _check_row(metric, METRICS, ("higher", "lower", "real"))
    METRICS[metric.name] = metric


def register_clip_metric(metric: ClipMetric) -> None:
    """Add a metric of clips; it is evaluated and reported like the others.

    Raises:
        UserError: the name is taken, or `better` is none of higher, lower.
    """
    _check_row(metric, CLIP_METRICS, ("higher", "lower"))
    CLIP_METRICS[metric.name] = metric


def select_metrics(names: Sequence[str]) -> list[Metric]:
    """The metrics of worlds of these names, in the registry's order.

    The name of a section names its metrics, unless it is the name of a metric too. Without a name those that are
    evaluated by default; `ALL` names all. Metrics that need assets are selected by their own names only.

    Raises:
        UserError: an unknown name.
    """
    if not names:
        return [metric for metric in METRICS.values() if metric.default]
    own = [metric.name for metric in METRICS.values() if not metric.assets]
    found: list[str] = []
    for name in names:
        section = [other for other in own if name in (ALL, METRICS[other].section)]
        found += [name] if name in METRICS else section or [FORMER_NAMES.get(name, name)]
    return _select(found, METRICS)


def select_clip_metrics(names: Sequence[str]) -> list[ClipMetric]:
    """The metrics of clips of these names, in the registry's order.

    Without a name those that are evaluated by default; `ALL` names all.

    Raises:
        UserError: an unknown name.
    """
    if not names:
        return [metric for metric in CLIP_METRICS.values() if metric.default]
    if ALL in names:
        return list(CLIP_METRICS.values())
    return _select([FORMER_CLIP_NAMES.get(x, x) if x not in CLIP_METRICS else x for x in names], CLIP_METRICS)


def _check_row(
    metric: Metric | ClipMetric, registry: Mapping[str, Metric | ClipMetric], directions: Sequence[str]
) -> None:
    if metric.name in registry:
        raise UserError(f"there is a metric {metric.name!r} already; give yours another name.")
    if metric.better not in directions:
        raise unknown_name("direction", metric.better, directions)


def _select(names: Sequence[str], registry: Mapping[str, Row]) -> list[Row]:
    for name in sorted(set(names)):
        if name not in registry:
            raise unknown_name("metric", name, registry)
    return [metric for metric in registry.values() if not names or metric.name in names]
