"""The registry of metrics. A new metric is a function and a row."""

from __future__ import annotations

from collections.abc import Sequence

from worldmodel.common.errors import UserError, unknown_name
from worldmodel.metrics import free_run, likelihood, outcomes, policy_order, prediction, reconstruction
from worldmodel.metrics.metric import Metric

METRICS: dict[str, Metric] = {
    metric.name: metric
    for module in (policy_order, free_run, likelihood, prediction, outcomes, reconstruction)
    for metric in module.ROWS
}
FORMER_NAMES = {"life": "steps_survived", "orders": "policy_order"}  # still accepted


def register(metric: Metric) -> None:
    """Add a metric; it is evaluated and reported like the others.

    Raises:
        UserError: the name is taken, or `better` is none of higher, lower, real.
    """
    if metric.name in METRICS:
        raise UserError(f"there is a metric {metric.name!r} already; give yours another name.")
    if metric.better not in ("higher", "lower", "real"):
        raise unknown_name("direction", metric.better, ("higher", "lower", "real"))
    METRICS[metric.name] = metric


def select_metrics(names: Sequence[str]) -> list[Metric]:
    """The metrics of these names, in the registry's order; all of them if no name is given.

    Raises:
        UserError: an unknown name.
    """
    wanted = {name if name in METRICS else FORMER_NAMES.get(name, name) for name in names}
    for name in sorted(wanted):
        if name not in METRICS:
            raise unknown_name("metric", name, METRICS)
    return [metric for metric in METRICS.values() if not wanted or metric.name in wanted]
