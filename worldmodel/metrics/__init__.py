"""How good a learned world is. `METRICS` are the rows; `register` adds one; `evaluate` judges."""

from worldmodel.metrics.evaluation import evaluate, table
from worldmodel.metrics.metric import Figure, Metric
from worldmodel.metrics.metric_registry import METRICS, register
from worldmodel.metrics.statistics import Estimate, bootstrap, difference, ratio
from worldmodel.metrics.world_trial import EvaluationSettings, PolicyFactory, WorldTrial

__all__ = [
    "METRICS",
    "Estimate",
    "EvaluationSettings",
    "Figure",
    "Metric",
    "PolicyFactory",
    "WorldTrial",
    "bootstrap",
    "difference",
    "evaluate",
    "ratio",
    "register",
    "table",
]
