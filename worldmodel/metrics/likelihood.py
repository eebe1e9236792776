"""Likelihood of held-out codes, frames >= 1 of the clips, compared with simple count models.

Shapes: B clips, L frames a clip, K = h*w places, V codes of the codebook.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from worldmodel.metrics.evaluation_run import EvaluationRun
from worldmodel.metrics.metric import Metric, MetricValue
from worldmodel.metrics.statistics import Estimate, ratio

UNIGRAM_COUNT = 0.5  # added to each count of the unigram
BIGRAM_COUNTS = (1.0, 4.0, 16.0, 64.0, 256.0)  # pseudo-counts of the unigram in the bigram; the best one is taken


def nats_per_clip(run: EvaluationRun) -> dict[str, np.ndarray]:
    """Negative log-likelihood of each clip's frames >= 1, (B,) nats, by model; "codes" is the number of codes."""
    clips, prior = run.clips, run.world.prior
    true, other = np.zeros(len(clips.other)), np.zeros(len(clips.other))
    for rows, clip in run.chunks("likelihood"):
        true[rows] = -prior.log_prob(clip)[:, 1:].double().sum(1).cpu().numpy()
        swapped = replace(clip, actions=clips.codes.actions[clips.other[rows]])
        other[rows] = -prior.log_prob(swapped)[:, 1:].double().sum(1).cpu().numpy()
    codes = clips.codes.codes.flatten(2).cpu().numpy()  # (B, L, K)
    train = run.train.codes.reshape(*run.train.codes.shape[:2], -1)
    unigram, bigram = count_models(train, run.train.valid, codes, prior.num_codes)
    count = np.full(len(codes), codes[0, 1:].size)
    return {"true": true, "other actions": other, "unigram": unigram, "bigram": bigram, "codes": count}


def count_models(
    train: np.ndarray, valid: np.ndarray, codes: np.ndarray, num_codes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Nats of clips' frames >= 1 under counts of the training split.

    The unigram knows how often each code occurs at each place; the bigram also knows the code at that place one frame
    before. The bigram uses the smoothing that is best for these very clips.

    Args:
        train: (n, l, K) int64, clips of consecutive frames.
        valid: (n, l) bool.
        codes: (B, L, K) int64, the clips to predict.
        num_codes: V.

    Returns:
        Unigram and bigram, (B,) float64 each.
    """
    offsets = np.arange(train.shape[-1]) * num_codes
    counts = np.bincount((train[valid] + offsets).ravel(), minlength=train.shape[-1] * num_codes)
    smooth = counts.reshape(-1, num_codes) + UNIGRAM_COUNT
    share = (smooth / smooth.sum(1, keepdims=True)).ravel()  # (K*V,)

    def pairs(clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        before = clips[:, :-1] + offsets
        return before, before * num_codes + clips[:, 1:]

    both = valid[:, :-1] & valid[:, 1:]
    before, pair = (x[both].ravel() for x in pairs(train))
    before_counts = np.bincount(before, minlength=train.shape[-1] * num_codes)
    known_pairs, known_counts = np.unique(pair, return_counts=True)
    before, pair = pairs(codes)  # (B, L-1, K)
    index = np.searchsorted(known_pairs, pair).clip(max=max(0, len(known_pairs) - 1))
    pair_counts = np.zeros(pair.shape)
    if len(known_pairs):
        pair_counts = np.where(known_pairs[index] == pair, known_counts[index], 0)
    unigram = share[codes[:, 1:] + offsets]
    bigrams = [-np.log((pair_counts + a * unigram) / (before_counts[before] + a)).sum((1, 2)) for a in BIGRAM_COUNTS]
    return -np.log(unigram).sum((1, 2)), min(bigrams, key=np.sum)


def nats_per_code(run: EvaluationRun) -> list[MetricValue]:
    """Nats per code of the world and of the baselines, resampled by episode."""
    nats, seed, episodes = run.cached(nats_per_clip), run.settings.seed, run.clips.episodes
    found = {name: ratio(nats[name], nats["codes"], seed, episodes) for name in nats if name != "codes"}
    return [MetricValue("true actions", found.pop("true"), found)]


def bits_per_code(run: EvaluationRun) -> list[MetricValue]:
    """The same in bits."""
    return [
        MetricValue(v.label, _to_bits(v.value), {name: _to_bits(baseline) for name, baseline in v.baselines.items()})
        for v in nats_per_code(run)
    ]


def control_gap(run: EvaluationRun) -> list[MetricValue]:
    """Nats per code that the true actions save over those of another clip, paired by clip, resampled by episode."""
    nats = run.cached(nats_per_clip)
    gap = ratio(nats["other actions"] - nats["true"], nats["codes"], run.settings.seed, run.clips.episodes)
    return [MetricValue("other actions - true", gap, {"actions ignored": Estimate(0.0)})]


def _to_bits(estimate: Estimate) -> Estimate:
    scaled = {name: None if x is None else x / math.log(2) for name, x in vars(estimate).items()}
    return Estimate(**scaled)  # type: ignore[arg-type]


SECTION = "likelihood"
ROWS = (
    Metric("nats", SECTION, "negative log-likelihood of held-out codes", "nats per code", "lower", nats_per_code),
    Metric("bits", SECTION, "negative log-likelihood of held-out codes", "bits per code", "lower", bits_per_code),
    Metric(
        "control_gap",
        SECTION,
        "increase of the negative log-likelihood with the actions of another clip of the same policy",
        "nats per code",
        "higher",
        control_gap,
    ),
)
