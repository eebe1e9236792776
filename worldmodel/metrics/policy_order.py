"""Orders: whether the dream puts policies in the order in which reality puts them.

This is what counts in the free run: a policy that learns in a dream which keeps the orders learns what is better.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from worldmodel.metrics.free_run import MEASURES, SECTION, Played, cap, horizons, measured
from worldmodel.metrics.metric import Figure, Metric
from worldmodel.metrics.statistics import Estimate, difference, ratio
from worldmodel.metrics.world_trial import WorldTrial

COUNTED = ("hit_rate", "life", "bright_share", "bright_frames", "motion")  # one for each fact: ends make lives short


@dataclass(frozen=True)
class Comparison:
    """Two policies by one measure: `counts` if over the whole free run and by a measure that repeats no other."""

    of: str
    counts: bool
    figure: Figure


def comparisons(trial: WorldTrial) -> list[Comparison]:
    """Every pair of policies by every measure over every horizon, whether reality tells them apart or not."""
    found, longest = [], cap(trial)
    for measure in (*MEASURES, "life"):
        played = measured(trial, measure)
        for steps in [longest] if measure == "life" else horizons(trial):
            for a, b in combinations(played, 2):
                figure = judge_order(played[a], played[b], measure, steps, trial.settings.seed)
                counts = measure in COUNTED and steps == longest
                found.append(Comparison(f"{measure}: {a} - {b}, {steps} steps", counts, figure))
    return found


def orders(trial: WorldTrial) -> list[Figure]:
    """Which pairs of policies reality tells apart, and whether the dream puts them in the same order.

    The summary counts each fact once (`Comparison.counts`); the comparisons that repeat one are listed after
    those that count. Its interval resamples the comparisons as if they were independent, though they share
    policies and dreams: the true one is wider. Where all verdicts agree resampling tells nothing, and none is given.
    """
    return summary(trial.once(comparisons))


def summary(found: list[Comparison]) -> list[Figure]:
    """Share of orders kept and clearly kept, then every comparison that reality decides; none if none counts."""
    decided = [c for c in found if c.figure.verdict]
    verdicts = [c.figure.verdict for c in decided if c.counts]
    if not verdicts:
        return []
    kept = np.asarray([verdict != "lost" for verdict in verdicts])
    clear = np.asarray([verdict == "kept, clearly" for verdict in verdicts])
    figures = [
        Figure(of, _share(good), beside, f"{good.sum()} of {len(good)}")
        for of, good, beside in (  # beside: what a dream without orders gets
            ("all", kept, {"a coin": Estimate(0.5)}),
            ("all, clearly", clear, {"no difference": Estimate(0.025)}),
        )
    ]
    for c in sorted(decided, key=lambda c: not c.counts):
        of = c.of if c.counts else f"{c.of} (not counted)"
        figures.append(Figure(of, c.figure.value, c.figure.beside, c.figure.verdict))
    return figures


def _share(good: np.ndarray) -> Estimate:
    """Share of (n,) bool that is True, resampled; without interval where all are alike."""
    share = ratio(good, np.ones(len(good)))
    return share if 0 < share.mean < 1 else Estimate(share.mean)


def judge_order(first: Played, second: Played, measure: str, steps: int, seed: int = 0) -> Figure:
    """The dreamed difference of two policies beside the real one.

    The verdict is empty where the real difference's interval holds 0, else "kept", "kept, clearly" (the
    dream's interval lies on the same side of 0) or "lost".
    """
    real = difference(first.real.of(measure, steps), second.real.of(measure, steps), seed)
    dream = difference(first.dreamed.of(measure, steps), second.dreamed.of(measure, steps), seed)
    verdict = ""
    if real.sign:
        same = dream.mean * real.sign > 0
        verdict = "lost" if not same else "kept, clearly" if dream.sign == real.sign else "kept"
    return Figure("", dream, {"real": real}, verdict)


ROWS = (
    Metric(
        "orders",
        SECTION,
        "differences between policies that reality is sure of (its 95 % interval omits 0): share whose sign the dream "
        "keeps, one comparison for each fact, resampled by comparison",
        "share",
        "higher",
        orders,
    ),
)
