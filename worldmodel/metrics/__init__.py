"""Evaluation of learned worlds and of generated clips.

`METRICS` is the registry of world metrics, `register` adds one, `evaluate` runs them. `CLIP_METRICS`,
`register_clip_metric` and `evaluate_clips` are the same for metrics of two sets of clips.
"""

from worldmodel.metrics.clip_evaluation import evaluate_clips
from worldmodel.metrics.clip_metric import ClipAccumulator, ClipMetric
from worldmodel.metrics.environment_rules import EnvironmentRules
from worldmodel.metrics.evaluation import evaluate, table
from worldmodel.metrics.evaluation_run import EvaluationRun, EvaluationSettings, LadderPolicy, PolicyFactory
from worldmodel.metrics.metric import Metric, MetricValue
from worldmodel.metrics.metric_registry import CLIP_METRICS, METRICS, register, register_clip_metric
from worldmodel.metrics.statistics import Estimate, bootstrap, difference, ratio

__all__ = [
    "CLIP_METRICS",
    "METRICS",
    "ClipAccumulator",
    "ClipMetric",
    "EnvironmentRules",
    "Estimate",
    "EvaluationRun",
    "EvaluationSettings",
    "LadderPolicy",
    "Metric",
    "MetricValue",
    "PolicyFactory",
    "bootstrap",
    "difference",
    "evaluate",
    "evaluate_clips",
    "ratio",
    "register",
    "register_clip_metric",
    "table",
]
