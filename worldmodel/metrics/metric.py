"""What a metric is, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from worldmodel.metrics.statistics import Estimate

if TYPE_CHECKING:
    from worldmodel.metrics.world_trial import WorldTrial


@dataclass(frozen=True)
class Figure:
    """One line of a report.

    Attributes:
        of: what it is the figure of, e.g. "random, 40 steps"; may be empty.
        value: the world's.
        beside: the same of its rivals and bounds, name -> figure.
        verdict: a word where the figure decides something; may be empty.
    """

    of: str
    value: Estimate
    beside: dict[str, Estimate] = field(default_factory=dict)
    verdict: str = ""

    def to_json(self) -> dict[str, Any]:
        """{"of", "value", "beside", "verdict"}."""
        beside = {name: estimate.to_json() for name, estimate in self.beside.items()}
        return {"of": self.of, "value": self.value.to_json(), "beside": beside, "verdict": self.verdict}


@dataclass(frozen=True)
class Metric:
    """A row of the registry.

    Attributes:
        name: how it is asked for.
        section: the heading it stands under.
        says: what it says, in a sentence.
        unit: of its figures.
        better: "higher", "lower", or "real": the nearer to the real figure beside it.
        function: a trial -> figures; none where the world or the data has nothing to measure it by.
    """

    name: str
    section: str
    says: str
    unit: str
    better: str
    function: Callable[[WorldTrial], list[Figure]]
