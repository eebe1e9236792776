"""The metrics that are known. A new one is a function and a row."""

from __future__ import annotations

from collections.abc import Sequence

from worldmodel.common.errors import UserError, unknown_name
from worldmodel.metrics import free_run as freerun
from worldmodel.metrics import likelihood, outcomes, prediction, reconstruction
from worldmodel.metrics import policy_order as orders
from worldmodel.metrics.metric import Metric

METRICS: dict[str, Metric] = {
    row.name: row
    for section in (orders, freerun, likelihood, prediction, outcomes, reconstruction)
    for row in section.ROWS
}


def register(metric: Metric) -> None:
    """Add a metric; it is evaluated and shown like the others.

    Raises:
        UserError: the name is taken, or `better` is none of higher, lower, real.
    """
    if metric.name in METRICS:
        raise UserError(f"there is a metric {metric.name!r} already; give yours another name.")
    if metric.better not in ("higher", "lower", "real"):
        raise unknown_name("direction", metric.better, ("higher", "lower", "real"))
    METRICS[metric.name] = metric


def chosen(names: Sequence[str]) -> list[Metric]:
    """The metrics of these names, all of them for none; always in the registry's order.

    Raises:
        UserError: a name that is not known.
    """
    for name in names:
        if name not in METRICS:
            raise unknown_name("metric", name, METRICS)
    return [row for row in METRICS.values() if not names or row.name in names]
