"""How good a learned world is. `METRICS` are the rows; `register` adds one; `evaluate` judges."""

from worldmodel.metrics.evaluate import evaluate, table
from worldmodel.metrics.figures import Figure, Metric
from worldmodel.metrics.registry import METRICS, register
from worldmodel.metrics.statistics import Estimate, bootstrap, difference, ratio
from worldmodel.metrics.trial import Player, Settings, Trial

__all__ = [
    "METRICS",
    "Estimate",
    "Figure",
    "Metric",
    "Player",
    "Settings",
    "Trial",
    "bootstrap",
    "difference",
    "evaluate",
    "ratio",
    "register",
    "table",
]
