"""The order of policies: whether differences between policies in the dream have the sign that they have in reality.

This is the criterion of the free run: a policy that learns in a dream with the right order learns what is better.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from worldmodel.metrics.evaluation_run import EvaluationRun
from worldmodel.metrics.free_run import MEASURES, SECTION, PolicyEvents, events_for, horizons, longest_horizon
from worldmodel.metrics.metric import Metric, MetricValue
from worldmodel.metrics.statistics import Estimate, difference, ratio

# One measure for each fact: the end rate repeats the steps survived.
COUNTED = ("hit_rate", "steps_survived", "bright_share", "bright_frames", "motion")

SAME, SIGNIFICANT, DIFFERENT = "same sign", "same sign, significant", "other sign"


@dataclass(frozen=True)
class Comparison:
    """Two policies by one measure.

    Attributes:
        label: measure, policies and steps.
        counts: whether it counts in the summary: over the whole free run, by a measure that repeats no other one.
        value: the difference in the dream, with the real one as its baseline.
    """

    label: str
    counts: bool
    value: MetricValue


def comparisons(run: EvaluationRun) -> list[Comparison]:
    """Every pair of policies by every measure over every horizon."""
    found, longest = [], longest_horizon(run)
    for measure in (*MEASURES, "steps_survived"):
        events = events_for(run, measure)
        for steps in [longest] if measure == "steps_survived" else horizons(run):
            for a, b in combinations(events, 2):
                value = compare_policies(events[a], events[b], measure, steps, run.settings.seed)
                counts = measure in COUNTED and steps == longest
                found.append(Comparison(f"{measure}: {a} - {b}, {steps} steps", counts, value))
    return found


def policy_order(run: EvaluationRun) -> list[MetricValue]:
    """For pairs of policies with a significant real difference: whether the dream's difference has the same sign.

    The summary counts each fact once (`Comparison.counts`); comparisons that repeat one are listed last. Its interval
    resamples the comparisons as if they were independent, though they share policies and dreams: the true interval is
    wider. Where all verdicts are equal, resampling gives no interval.
    """
    return summary(run.cached(comparisons))


def summary(found: list[Comparison]) -> list[MetricValue]:
    """Share of differences with the same sign, then every comparison whose real difference is significant.

    Empty where no comparison counts.
    """
    decided = [c for c in found if c.value.verdict]
    verdicts = [c.value.verdict for c in decided if c.counts]
    if not verdicts:
        return []
    same = np.asarray([verdict != DIFFERENT for verdict in verdicts])
    significant = np.asarray([verdict == SIGNIFICANT for verdict in verdicts])
    values = [
        MetricValue(label, _share(agrees), baseline, f"{agrees.sum()} of {len(agrees)}")
        for label, agrees, baseline in (  # baseline: the share of a dream in which policies do not differ
            ("all", same, {"coin flip": Estimate(0.5)}),
            ("all, significant", significant, {"no difference": Estimate(0.025)}),
        )
    ]
    for c in sorted(decided, key=lambda c: not c.counts):
        label = c.label if c.counts else f"{c.label} (not counted)"
        values.append(MetricValue(label, c.value.value, c.value.baselines, c.value.verdict))
    return values


def _share(flags: np.ndarray) -> Estimate:
    """Share of (n,) bool that is True, resampled; without interval where all are equal."""
    share = ratio(flags, np.ones(len(flags)))
    return share if 0 < share.mean < 1 else Estimate(share.mean)


def compare_policies(first: PolicyEvents, second: PolicyEvents, measure: str, steps: int, seed: int = 0) -> MetricValue:
    """The difference of two policies in the dream, with the real difference as its baseline.

    The verdict is empty where the interval of the real difference contains 0. Otherwise it is `SAME`, `SIGNIFICANT`
    (the dream's interval lies on the same side of 0) or `DIFFERENT`.
    """
    real = difference(first.real.totals(measure, steps), second.real.totals(measure, steps), seed)
    dreamed = difference(first.dreamed.totals(measure, steps), second.dreamed.totals(measure, steps), seed)
    verdict = ""
    if real.sign:
        same = dreamed.mean * real.sign > 0
        verdict = DIFFERENT if not same else SIGNIFICANT if dreamed.sign == real.sign else SAME
    return MetricValue("", dreamed, {"real": real}, verdict)


ROWS = (
    Metric(
        "policy_order",
        SECTION,
        "differences between policies that are significant in reality (the 95 % interval omits 0): share that has the "
        "same sign in the dream, one comparison per fact, resampled by comparison",
        "share",
        "higher",
        policy_order,
    ),
)
