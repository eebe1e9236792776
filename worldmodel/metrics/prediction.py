"""Prediction by horizon: one sample after a fixed context, with the true actions.

Shapes: B clips, W frames of context, n horizons, H W pixels.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from worldmodel.metrics.clip_dreams import paired_dreams
from worldmodel.metrics.evaluation_run import EvaluationRun
from worldmodel.metrics.frame_scores import WINDOW, bright_precision_counts, bright_recall_counts, changed, psnr, ssim
from worldmodel.metrics.metric import Metric, MetricValue
from worldmodel.metrics.statistics import Estimate, ratio
from worldmodel.tokenizer import Tokenizer

# candidate -> measure -> numerators and denominators, (B, n) each
Scores = dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]
OTHER = "other actions"


def horizons(run: EvaluationRun) -> list[int]:
    """Frames ahead that are reported: powers of two, and the last."""
    ahead = run.settings.ahead
    return [h for h in (2**k for k in range(ahead.bit_length())) if h < ahead] + [ahead]


def scores(run: EvaluationRun) -> Scores:
    """Frames of every candidate compared with the real ones, clip by clip and horizon by horizon."""
    world, clips, window = run.world, run.clips, run.world.prior.window
    dreams, ahead = run.cached(paired_dreams), torch.tensor(horizons(run))
    chunks: list[Scores] = []
    for rows, clip in run.chunks("prediction"):
        frames = clips.frames[rows]
        real, last = frames[:, window - 1 + ahead], frames[:, window - 1 : window]
        candidates = {
            "dream": dreams.recorded.frames[rows, ahead - 1],
            OTHER: dreams.other.frames[rows, ahead - 1],
            "repeat last": last.expand_as(real),
            "mean frame": run.train.mean_frame.expand_as(real),
            "reconstruction": world.tokenizer.decode_at(clip.codes, window - 1 + ahead).cpu(),
        }
        threshold, tokenizer = run.train.bright_threshold, world.tokenizer
        chunks.append({name: compare(tokenizer, real, frames, last, threshold) for name, frames in candidates.items()})

    def joined(name: str, measure: str) -> tuple[np.ndarray, np.ndarray]:
        numerators, denominators = zip(*(chunk[name][measure] for chunk in chunks), strict=True)
        return np.concatenate(numerators), np.concatenate(denominators)

    return {name: {measure: joined(name, measure) for measure in chunks[0][name]} for name in chunks[0]}


def compare(
    tokenizer: Tokenizer, real: Tensor, candidate: Tensor, last: Tensor, threshold: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Compare frames with the real ones: the part that the tokenizer encodes, and by "border_psnr" what is around it.

    Args:
        tokenizer: the tokenizer of the world.
        real, candidate: (B, n, H, W, 3) uint8.
        last: (B, 1, H, W, 3) uint8, last frame of the context.
        threshold: a pixel whose largest colour is above this is bright.

    Returns:
        measure -> numerators and denominators, (B, n) each; SSIM only of frames of 11 pixels and more, "border_psnr"
        only where the tokenizer encodes a part of the frame.
    """
    shape, one = real.shape[:2], torch.ones(real.shape[0] * real.shape[1])
    border = border_psnr(tokenizer, real.flatten(0, 1), candidate.flatten(0, 1))
    real, candidate, last = (tokenizer.encoded_part(frames) for frames in (real, candidate, last))
    x, y = real.flatten(0, 1), candidate.flatten(0, 1)
    moved = changed(last.expand_as(real).flatten(0, 1), x)
    any_moved = moved.flatten(1).any(1)
    pairs = {
        "psnr": (psnr(x, y), one),
        "psnr_changed": (torch.where(any_moved, psnr(x, y, moved), 0.0), any_moved),
        "bright_recall": bright_recall_counts(x, y, threshold),
        "bright_precision": bright_precision_counts(x, y, threshold),
    }
    if min(real.shape[2:4]) >= WINDOW:
        pairs["ssim"] = (ssim(x, y), one)
    if border is not None:
        pairs["border_psnr"] = (border, one)

    def numbers(values: Tensor) -> np.ndarray:
        return values.double().reshape(shape).numpy()

    return {name: (numbers(above), numbers(below)) for name, (above, below) in pairs.items()}


def border_psnr(tokenizer: Tokenizer, real: Tensor, candidate: Tensor) -> Tensor | None:
    """PSNR outside the encoded part: two (N, H, W, 3) uint8 -> (N,) float64; None where all of a frame is encoded."""
    if tokenizer.border is None:
        return None
    outside = torch.ones(real.shape[:3], dtype=torch.bool)
    outside[(slice(None), *tokenizer.encoded)] = False
    return psnr(real, candidate, outside)


def by_horizon(run: EvaluationRun, measure: str) -> list[MetricValue]:
    """A measure of the dream at each horizon, compared with baselines and with the reconstruction as upper bound.

    Intervals are by episode.
    """
    table, seed, episodes = run.cached(scores), run.settings.seed, run.clips.episodes
    values = []
    for i, ahead in enumerate(horizons(run) if measure in table["dream"] else []):
        columns = {name: tuple(x[:, i] for x in measures[measure]) for name, measures in table.items()}
        found = {name: ratio(above, below, seed, episodes) for name, (above, below) in columns.items()}
        values.append(MetricValue(f"{ahead} ahead", found.pop("dream"), found))
    return values


def control_psnr(run: EvaluationRun) -> list[MetricValue]:
    """PSNR with the true actions minus PSNR with those of another clip, paired by clip and resampled by episode."""
    table = run.cached(scores)
    (true, sizes), (other, _) = table["dream"]["psnr"], table[OTHER]["psnr"]
    return [
        MetricValue(
            f"{ahead} ahead",
            ratio(true[:, i] - other[:, i], sizes[:, i], run.settings.seed, run.clips.episodes),
            {"actions ignored": Estimate(0.0)},
        )
        for i, ahead in enumerate(horizons(run))
    ]


SECTION = "prediction"
ROWS = (
    *(
        Metric(name, SECTION, description, unit, "higher", partial(by_horizon, measure=name))
        for name, description, unit in (
            ("psnr", "dreamed frames compared with real ones, mean over frames", "dB"),
            ("ssim", "the same by structural similarity (Wang et al. 2004)", "of 1"),
            ("psnr_changed", "PSNR over pixels that changed since the last frame of the context", "dB"),
            ("bright_recall", "small bright pixels with a dreamed bright pixel at most 2 pixels away", "share"),
            ("bright_precision", "dreamed bright pixels with a real one at most 2 pixels away", "share"),
            ("border_psnr", "PSNR outside the part of the frame that the tokenizer encodes", "dB"),
        )
    ),
    Metric(
        "control_psnr",
        SECTION,
        "PSNR with the true actions minus PSNR with the actions of another clip",
        "dB",
        "higher",
        control_psnr,
    ),
)
