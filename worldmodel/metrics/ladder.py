"""The held-out ladder: returns of policies that no recording contains, in the dream and in the environment.

A world that is right for recorded play can be wrong for other play, and a policy that learns in its dreams plays
differently. The ladder predicts whether such a policy is as good outside as in its dreams.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worldmodel.common.errors import UserError
from worldmodel.metrics.dream_play import episode_steps, play_dreams
from worldmodel.metrics.evaluation_run import EvaluationRun
from worldmodel.metrics.metric import Metric, MetricValue
from worldmodel.metrics.statistics import Estimate, estimate_from, ratio, resample_weights

RECORDED = "recorded"
MIN_POLICIES = 3  # held-out policies, below which nothing is said about their order


@dataclass(frozen=True)
class Rung:
    """Returns of one policy.

    Attributes:
        name: of the policy.
        dreamed, real: (N,) float64, returns of dreams and of episodes of the environment.
        recorded: whether the dataset contains the policy.
    """

    name: str
    dreamed: np.ndarray
    real: np.ndarray
    recorded: bool


def play_ladder(run: EvaluationRun) -> list[Rung]:
    """Returns of every policy of the ladder; none where dreams cannot be compared with whole episodes.

    All policies dream with the same seeds, hence from the same starts, and play the same seeds of the environment.
    """
    rungs: list[Rung] = []
    try:
        episode_steps(run.world)
    except UserError:
        return rungs
    settings = run.settings
    for done, policy in enumerate(run.ladder):
        run.progress("ladder", done, len(run.ladder), {})
        real = policy.real_returns(settings.ladder_episodes)
        dreams = play_dreams(run.world, policy.play, settings.ladder_episodes, settings.seed, settings.sampling)
        rungs.append(Rung(policy.name, dreams.returns, real, policy.recorded))
    run.progress("ladder", len(run.ladder), len(run.ladder), {})
    return rungs


def returns(run: EvaluationRun) -> list[MetricValue]:
    """Mean return of each policy in the dream, with the real one as its baseline, ascending by real return."""
    values = []
    for rung in sorted(run.cached(play_ladder), key=lambda rung: rung.real.mean()):
        dreamed, real = (ratio(x, np.ones(len(x)), run.settings.seed) for x in (rung.dreamed, rung.real))
        values.append(MetricValue(rung.name, dreamed, {"real": real}, RECORDED if rung.recorded else ""))
    return values


def rank_correlation(run: EvaluationRun) -> list[MetricValue]:
    """Spearman's rho between dreamed and real mean returns of the held-out policies, resampled by policy."""
    rungs = held_out(run.cached(play_ladder))
    if len(rungs) < MIN_POLICIES:
        return []
    dreamed, real = (np.asarray([getattr(rung, name).mean() for rung in rungs]) for name in ("dreamed", "real"))
    rho = estimate_rho(dreamed, real, run.settings.seed)
    return [MetricValue(f"{len(rungs)} policies", rho, {"chance": Estimate(0.0)})]


def worst_ratio(run: EvaluationRun) -> list[MetricValue]:
    """The largest factor between dreamed and real mean return of a held-out policy, and the median factor.

    The factor is max(dreamed / real, real / dreamed), so it is at least 1. Only policies whose mean returns are both
    positive have one. The interval of the worst resamples that policy's dreams and episodes; it does not know that the
    policy was chosen as the worst.
    """
    rungs = [r for r in held_out(run.cached(play_ladder)) if r.dreamed.mean() > 0 and r.real.mean() > 0]
    if not rungs:
        return []
    factors = [_factor(rung, run.settings.seed) for rung in rungs]
    worst = int(np.argmax([factor.mean for factor in factors]))
    rung = rungs[worst]
    direction = "too high in the dream" if rung.dreamed.mean() > rung.real.mean() else "too low in the dream"
    median = Estimate(float(np.median([factor.mean for factor in factors])))
    return [MetricValue(rung.name, factors[worst], {"median policy": median, "right": Estimate(1.0)}, direction)]


def held_out(rungs: list[Rung]) -> list[Rung]:
    """The policies that the dataset does not contain."""
    return [rung for rung in rungs if not rung.recorded]


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of values (n,); equal values share their mean rank. NaN where all are equal."""
    a, b = (_ranks(x) - (len(x) - 1) / 2 for x in (first, second))
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")


def estimate_rho(dreamed: np.ndarray, real: np.ndarray, seed: int = 0) -> Estimate:
    """Spearman's rho of mean returns (n,), resampled by policy: an interval over policies like these."""
    index = np.arange(len(real))
    rows = (np.repeat(index, weights.astype(int)) for weights in resample_weights(len(real), seed))
    resampled = np.asarray([spearman(dreamed[chosen], real[chosen]) for chosen in rows])
    return estimate_from(spearman(dreamed, real), resampled[np.isfinite(resampled)])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, (n,) float64; equal values share their mean rank."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[index]


def _factor(rung: Rung, seed: int) -> Estimate:
    """The factor between the two means, with the interval of the larger over the smaller."""
    high, low = (rung.dreamed, rung.real) if rung.dreamed.mean() > rung.real.mean() else (rung.real, rung.dreamed)
    tops, bottoms = (
        resample_weights(len(x), seed + i) @ x / len(x) if len(x) > 1 else np.full(1, np.nan)
        for i, x in enumerate((high, low))
    )
    with np.errstate(divide="ignore"):
        factors = tops / bottoms
    return estimate_from(float(high.mean() / low.mean()), factors[np.isfinite(factors)])


def notes(run: EvaluationRun) -> list[str]:
    """What a reader must know to interpret the ladder."""
    if not run.ladder:
        return ["The ladder is not played: no policies were given, by the environment's row or --ladder-policies."]
    try:
        episode_steps(run.world)
    except UserError as error:
        return [f"The ladder is not played: {error}"]
    recorded = [policy.name for policy in run.ladder if policy.recorded]
    found = [
        f"Ladder: {len(run.ladder) - len(recorded)} policies that the dataset does not contain, with "
        f"{run.settings.ladder_episodes} dreams and validation episodes each. The interval of the rank correlation "
        "resamples policies."
    ]
    if recorded:
        found.append(f"Recorded, so left out of the ladder's rank and ratio: {', '.join(recorded)}.")
    unmeasured = [r.name for r in held_out(run.cached(play_ladder)) if min(r.dreamed.mean(), r.real.mean()) <= 0]
    if unmeasured:
        found.append(f"Without a positive return, so without a ratio: {', '.join(unmeasured)}.")
    return found


SECTION = "ladder"
ROWS = tuple(
    Metric(name, SECTION, description, unit, better, function, default=False)
    for name, description, unit, better, function in (
        ("ladder_returns", "mean return of policies that recordings leave out", "return", "real", returns),
        (
            "ladder_rank",
            "Spearman's rank correlation of dreamed and real mean returns, without recorded policies",
            "of 1",
            "higher",
            rank_correlation,
        ),
        (
            "ladder_ratio",
            "largest factor between dreamed and real mean return, without recorded policies",
            "factor",
            "lower",
            worst_ratio,
        ),
    )
)
