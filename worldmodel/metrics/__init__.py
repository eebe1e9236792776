"""Evaluation of learned worlds. `METRICS` is the registry, `register` adds a metric, `evaluate` runs them."""

from worldmodel.metrics.evaluation import evaluate, table
from worldmodel.metrics.evaluation_run import EvaluationRun, EvaluationSettings, PolicyFactory
from worldmodel.metrics.metric import Metric, MetricValue
from worldmodel.metrics.metric_registry import METRICS, register
from worldmodel.metrics.statistics import Estimate, bootstrap, difference, ratio

__all__ = [
    "METRICS",
    "Estimate",
    "EvaluationRun",
    "EvaluationSettings",
    "Metric",
    "MetricValue",
    "PolicyFactory",
    "bootstrap",
    "difference",
    "evaluate",
    "ratio",
    "register",
    "table",
]
