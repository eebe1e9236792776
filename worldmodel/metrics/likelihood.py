"""Likelihood of held-out codes, frames >= 1 of the clips, beside what simple counts reach.

Shapes: B clips, L frames a clip, K = h*w places, V codes in the book.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from worldmodel.metrics.metric import Figure, Metric
from worldmodel.metrics.statistics import Estimate, ratio
from worldmodel.metrics.world_trial import WorldTrial

PSEUDO = 0.5  # added to each unigram count
TRUSTS = (1.0, 4.0, 16.0, 64.0, 256.0)  # pseudo-counts by which the bigram leans on the unigram; the best is taken


def nats_of_clips(trial: WorldTrial) -> dict[str, np.ndarray]:
    """Negative log-likelihood of each clip's frames >= 1, (B,) nats, by who predicts; "codes" are how many."""
    clips, prior = trial.clips, trial.world.prior
    true, other = np.zeros(len(clips.other)), np.zeros(len(clips.other))
    for rows, clip in trial.chunks("likelihood"):
        true[rows] = -prior.log_prob(clip)[:, 1:].double().sum(1).cpu().numpy()
        strange = replace(clip, actions=clips.codes.actions[clips.other[rows]])
        other[rows] = -prior.log_prob(strange)[:, 1:].double().sum(1).cpu().numpy()
    codes = clips.codes.codes.flatten(2).cpu().numpy()  # (B, L, K)
    train = trial.train.codes.reshape(*trial.train.codes.shape[:2], -1)
    unigram, bigram = count_models(train, trial.train.valid, codes, prior.num_codes)
    count = np.full(len(codes), codes[0, 1:].size)
    return {"true": true, "other actions": other, "unigram": unigram, "bigram": bigram, "codes": count}


def count_models(
    train: np.ndarray, valid: np.ndarray, codes: np.ndarray, num_codes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Nats of clips' frames >= 1 under the training split's counts.

    The unigram knows how often each place shows each code; the bigram also what the place showed one frame
    before. Of several smoothings the bigram is given the one that suits these very clips best.

    Args:
        train: (n, l, K) int64, clips of consecutive frames.
        valid: (n, l) bool.
        codes: (B, L, K) int64, the clips to predict.
        num_codes: V.

    Returns:
        Unigram and bigram, (B,) float64 each.
    """
    places = np.arange(train.shape[-1]) * num_codes
    counts = np.bincount((train[valid] + places).ravel(), minlength=train.shape[-1] * num_codes)
    smooth = counts.reshape(-1, num_codes) + PSEUDO
    share = (smooth / smooth.sum(1, keepdims=True)).ravel()  # (K*V,)

    def pairs(clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        before = clips[:, :-1] + places
        return before, before * num_codes + clips[:, 1:]

    both = valid[:, :-1] & valid[:, 1:]
    before, pair = (x[both].ravel() for x in pairs(train))
    of_before = np.bincount(before, minlength=train.shape[-1] * num_codes)
    seen, often = np.unique(pair, return_counts=True)
    before, pair = pairs(codes)  # (B, L-1, K)
    at = np.searchsorted(seen, pair).clip(max=max(0, len(seen) - 1))
    of_pair = np.where(seen[at] == pair, often[at], 0) if len(seen) else np.zeros(pair.shape)
    alone = share[codes[:, 1:] + places]
    bigrams = [-np.log((of_pair + a * alone) / (of_before[before] + a)).sum((1, 2)) for a in TRUSTS]
    return -np.log(alone).sum((1, 2)), min(bigrams, key=np.sum)


def per_code(trial: WorldTrial) -> list[Figure]:
    """Nats a code of the world and of its rivals, resampled by episode."""
    nats, seed, units = trial.once(nats_of_clips), trial.settings.seed, trial.clips.episodes
    found = {name: ratio(nats[name], nats["codes"], seed, units) for name in nats if name != "codes"}
    return [Figure("true actions", found.pop("true"), found)]


def bits(trial: WorldTrial) -> list[Figure]:
    """The same in bits."""
    return [
        Figure(f.of, _scaled(f.value), {name: _scaled(rival) for name, rival in f.beside.items()})
        for f in per_code(trial)
    ]


def control_gap(trial: WorldTrial) -> list[Figure]:
    """What the true actions are worth, in nats a code, paired by clip and resampled by episode."""
    nats = trial.once(nats_of_clips)
    gap = ratio(nats["other actions"] - nats["true"], nats["codes"], trial.settings.seed, trial.clips.episodes)
    return [Figure("other actions - true", gap, {"actions ignored": Estimate(0.0)})]


def _scaled(estimate: Estimate) -> Estimate:
    scaled = {name: None if x is None else x / math.log(2) for name, x in vars(estimate).items()}
    return Estimate(**scaled)  # type: ignore[arg-type]


SECTION = "likelihood"
ROWS = (
    Metric("nats", SECTION, "negative log-likelihood of held-out codes", "nats a code", "lower", per_code),
    Metric("bits", SECTION, "negative log-likelihood of held-out codes", "bits a code", "lower", bits),
    Metric(
        "control_gap",
        SECTION,
        "how much worse another clip's actions of the same policy predict",
        "nats a code",
        "higher",
        control_gap,
    ),
)
