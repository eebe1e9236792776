"""A metric, and the values that it reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from worldmodel.metrics.statistics import Estimate

if TYPE_CHECKING:
    from worldmodel.metrics.evaluation_run import EvaluationRun


@dataclass(frozen=True)
class MetricValue:
    """One line of a report.

    Attributes:
        label: what was measured, e.g. "random, 40 steps"; may be empty.
        value: the value of the world.
        baselines: the same for baselines and bounds, name -> value.
        verdict: the conclusion, where the value allows one; may be empty.
    """

    label: str
    value: Estimate
    baselines: dict[str, Estimate] = field(default_factory=dict)
    verdict: str = ""

    def scaled(self, factor: float) -> MetricValue:
        """The value and its baselines times a positive number."""
        baselines = {name: estimate.scaled(factor) for name, estimate in self.baselines.items()}
        return replace(self, value=self.value.scaled(factor), baselines=baselines)

    def to_json(self) -> dict[str, Any]:
        """{"label", "value", "baselines", "verdict"}."""
        baselines = {name: estimate.to_json() for name, estimate in self.baselines.items()}
        return {"label": self.label, "value": self.value.to_json(), "baselines": baselines, "verdict": self.verdict}


@dataclass(frozen=True)
class Metric:
    """A row of the registry.

    Attributes:
        name: name in commands and results.
        section: heading of the report that it belongs to.
        description: what it measures, in a sentence.
        unit: unit of its values.
        better: "higher", "lower", or "real": the nearer to the baseline called "real".
        function: evaluation run -> values; empty where the world or the data has nothing to measure.
        default: whether it is evaluated when no metric is named; False for expensive ones.
        assets: files from elsewhere that it needs; a metric with any is evaluated by name only.
    """

    name: str
    section: str
    description: str
    unit: str
    better: str
    function: Callable[[EvaluationRun], list[MetricValue]]
    default: bool = True
    assets: tuple[str, ...] = ()
