"""What survives the tokenizer, and how much of its book it uses.

Shapes: B clips, L frames a clip, H W pixels, V codes in the book.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from worldmodel.metrics.metric import Figure, Metric
from worldmodel.metrics.prediction import compare
from worldmodel.metrics.statistics import Estimate, ratio
from worldmodel.metrics.world_trial import WorldTrial

EVERY = 4  # of the clips' frames one in so many is decoded

Scores = dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]


def scores(trial: WorldTrial) -> Scores:
    """Reconstructions and the mean frame against the real frames: amounts and sizes, (B, n) each."""
    parts: dict[str, list[dict[str, tuple[np.ndarray, np.ndarray]]]] = {"world": [], "mean frame": []}
    for rows, clip in trial.chunks("reconstruction"):
        real = trial.clips.frames[rows, ::EVERY]
        made = trial.world.tokenizer.decode(clip.codes[:, ::EVERY]).cpu()
        for name, frames in (("world", made), ("mean frame", trial.train.mean_frame.expand_as(real))):
            parts[name].append(compare(real, frames, real[:, :1], trial.train.bright))
    return {
        name: {
            measure: tuple(np.concatenate([part[measure][i] for part in found]) for i in (0, 1))  # type: ignore[misc]
            for measure in found[0]
        }
        for name, found in parts.items()
    }


def survival(trial: WorldTrial, measure: str) -> list[Figure]:
    """A measure of the reconstructions, the mean frame's beside it, resampled by episode."""
    table = trial.once(scores)
    if measure not in table["world"]:
        return []
    found = {}
    for name, measures in table.items():
        amounts, sizes = measures[measure]
        found[name] = ratio(amounts.sum(1), sizes.sum(1), trial.settings.seed, trial.clips.episodes)
    return [Figure("", found.pop("world"), found)]


def perplexity(trial: WorldTrial) -> list[Figure]:
    """Codes in effective use: the exponential of the entropy of how often each occurs."""
    counts = _counts(trial)
    share = counts[counts > 0] / counts.sum()
    value = float(np.exp(-(share * np.log(share)).sum()))
    return [Figure("", Estimate(value), {"all alike": Estimate(float(len(counts)))})]


def unused(trial: WorldTrial) -> list[Figure]:
    """Codes that the clips never show."""
    counts = _counts(trial)
    return [Figure("", Estimate(float((counts == 0).sum())), {"codes": Estimate(float(len(counts)))})]


def _counts(trial: WorldTrial) -> np.ndarray:
    codes = trial.clips.codes.codes.flatten().cpu().numpy()
    return np.bincount(codes, minlength=trial.world.prior.num_codes)


SECTION = "reconstruction"
ROWS = (
    *(
        Metric(f"reconstruction_{measure}", SECTION, says, unit, "higher", partial(survival, measure=measure))
        for measure, says, unit in (
            ("psnr", "frames after the tokenizer against real ones, mean over frames", "dB"),
            ("ssim", "the same by structure", "of 1"),
            ("bright_recall", "small bright things with a reconstructed bright pixel at most 2 pixels away", "share"),
        )
    ),
    Metric("perplexity", SECTION, "codes in effective use on the split's clips", "codes", "higher", perplexity),
    Metric("unused_codes", SECTION, "codes that the split's clips never show", "codes", "lower", unused),
)
