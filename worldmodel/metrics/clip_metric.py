"""Metrics of two sets of clips, real ones and generated ones; they need no world.

Shapes: N clips, T frames, H W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from worldmodel.metrics.clip_protocols import ClipNetworks
from worldmodel.metrics.metric import MetricValue

State = dict[str, np.ndarray]


class ClipAccumulator(ABC):
    """A metric in progress: it takes clips batch by batch and keeps only what its value needs.

    The value may be a function of both whole sets (a distance between distributions), or a mean over pairs of clips.
    """

    @abstractmethod
    def update(self, clips: Tensor, is_real: bool) -> None:
        """Add clips of one of the two sets: (N, T, H, W, 3) uint8, any N."""

    @abstractmethod
    def compute(self) -> list[MetricValue]:
        """The values for the clips so far; empty where there is nothing to measure. More clips may follow."""

    @abstractmethod
    def state(self) -> State:
        """Everything accumulated so far, as arrays, to save and continue later."""

    @abstractmethod
    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from a `state` of the same metric."""

    def details(self) -> dict[str, str]:
        """What the value depends on besides the clips, for reports: name -> phrase."""
        return {}

    def warnings(self) -> list[str]:
        """What a reader must know to interpret the value, in sentences."""
        return []


@dataclass(frozen=True)
class ClipMetric:
    """A row of the registry of clip metrics.

    Attributes:
        name: name in commands and results.
        description: what it measures, in a sentence.
        unit: unit of its values.
        better: "higher" or "lower".
        is_paired: whether it compares generated clip i with real clip i, so that both sets must be in the same order;
            otherwise it compares the two distributions.
        make: makes an empty accumulator.
        default: whether it is evaluated when no metric is named; False for expensive ones.
        uses_networks: whether `make` takes a `ClipNetworks`, which has settings and shared networks.
    """

    name: str
    description: str
    unit: str
    better: str
    is_paired: bool
    make: Callable[..., ClipAccumulator]
    default: bool = True
    uses_networks: bool = False

    def accumulator(self, networks: ClipNetworks) -> ClipAccumulator:
        """An empty accumulator.

        Raises:
            UserError: a network that it needs cannot be loaded.
        """
        return self.make(networks) if self.uses_networks else self.make()
