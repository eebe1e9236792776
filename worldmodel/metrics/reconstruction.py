"""Quality of the tokenizer's reconstructions, and how much of its codebook is used.

Shapes: B clips, L frames a clip, H W pixels, V codes of the codebook.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from worldmodel.metrics.evaluation_run import EvaluationRun
from worldmodel.metrics.metric import Metric, MetricValue
from worldmodel.metrics.prediction import Scores, compare
from worldmodel.metrics.statistics import Estimate, ratio

FRAME_STRIDE = 4  # every fourth frame of the clips is decoded


def scores(run: EvaluationRun) -> Scores:
    """Reconstructions and the mean frame compared with the real frames, clip by clip."""
    chunks: dict[str, list[dict[str, tuple[np.ndarray, np.ndarray]]]] = {"world": [], "mean frame": []}
    tokenizer = run.world.tokenizer
    steps = slice(tokenizer.decoder_past, None, FRAME_STRIDE)  # frames that codes of the clip alone determine
    for rows, clip in run.chunks("reconstruction"):
        real = run.clips.frames[rows, steps]
        decoded = tokenizer.decode_at(clip.codes, steps).cpu()
        for name, frames in (("world", decoded), ("mean frame", run.train.mean_frame.expand_as(real))):
            chunks[name].append(compare(tokenizer, real, frames, real[:, :1], run.train.bright_threshold))
    return {
        name: {
            measure: tuple(np.concatenate([chunk[measure][i] for chunk in found]) for i in (0, 1))  # type: ignore[misc]
            for measure in found[0]
        }
        for name, found in chunks.items()
    }


def quality(run: EvaluationRun, measure: str) -> list[MetricValue]:
    """A measure of the reconstructions, compared with the mean frame, resampled by episode."""
    table = run.cached(scores)
    if measure not in table["world"]:
        return []
    found = {}
    for name, measures in table.items():
        above, below = measures[measure]
        found[name] = ratio(above.sum(1), below.sum(1), run.settings.seed, run.clips.episodes)
    return [MetricValue("", found.pop("world"), found)]


def perplexity(run: EvaluationRun) -> list[MetricValue]:
    """Effective number of codes: the exponential of the entropy of their frequencies."""
    counts = _code_counts(run)
    share = counts[counts > 0] / counts.sum()
    value = float(np.exp(-(share * np.log(share)).sum()))
    return [MetricValue("", Estimate(value), {"uniform": Estimate(float(len(counts)))})]


def unused_codes(run: EvaluationRun) -> list[MetricValue]:
    """Number of codes that never occur in the clips."""
    counts = _code_counts(run)
    return [MetricValue("", Estimate(float((counts == 0).sum())), {"codes": Estimate(float(len(counts)))})]


def _code_counts(run: EvaluationRun) -> np.ndarray:
    codes = run.clips.codes.codes.flatten().cpu().numpy()
    return np.bincount(codes, minlength=run.world.prior.num_codes)


SECTION = "reconstruction"
ROWS = (
    *(
        Metric(f"reconstruction_{measure}", SECTION, description, unit, "higher", partial(quality, measure=measure))
        for measure, description, unit in (
            ("psnr", "reconstructed frames compared with real ones, mean over frames", "dB"),
            ("ssim", "the same by structural similarity", "of 1"),
            ("bright_recall", "small bright pixels with a reconstructed bright pixel at most 2 pixels away", "share"),
            ("border_psnr", "PSNR outside the part of the frame that the tokenizer encodes", "dB"),
        )
    ),
    Metric("perplexity", SECTION, "effective number of codes in the split's clips", "codes", "higher", perplexity),
    Metric("unused_codes", SECTION, "codes that never occur in the split's clips", "codes", "lower", unused_codes),
)
