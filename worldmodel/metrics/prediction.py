"""Prediction by horizon: one free-running sample after a fixed context, with the true actions.

Shapes: B clips, W frames of context, n horizons, H W pixels.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from worldmodel.metrics.dream_rollouts import predict
from worldmodel.metrics.frame_scores import WINDOW, bright_found, bright_right, changed, psnr, ssim
from worldmodel.metrics.metric import Figure, Metric
from worldmodel.metrics.statistics import Estimate, ratio
from worldmodel.metrics.world_trial import WorldTrial
from worldmodel.prior.code_clip import CodeClip

# candidate -> measure -> amounts and sizes, (B, n) each
Scores = dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]
OTHER = "other actions"


def horizons(trial: WorldTrial) -> list[int]:
    """Frames ahead that are told: powers of two, and the last."""
    ahead = trial.settings.ahead
    return [h for h in (2**k for k in range(ahead.bit_length())) if h < ahead] + [ahead]


def scores(trial: WorldTrial) -> Scores:
    """Every candidate's frames against the real ones, clip by clip and horizon by horizon."""
    world, settings, clips, window = trial.world, trial.settings, trial.clips, trial.world.prior.window
    told = torch.tensor(horizons(trial))
    parts: list[Scores] = []
    for rows, clip in trial.chunks("prediction"):
        seeds = settings.seed + torch.arange(rows.start, rows.stop)
        frames = clips.frames[rows]
        real, last = frames[:, window - 1 + told], frames[:, window - 1 : window]
        twice = CodeClip(**{name: torch.cat([tensor, tensor]) for name, tensor in vars(clip).items()})
        future = torch.cat([clip.actions, clips.codes.actions[clips.other[rows]]])[:, window - 1 :]
        dreams = predict(world, twice, future, window, seeds.repeat(2), settings.sampling)[:, told - 1]
        made = {
            "dream": dreams[: len(real)],
            OTHER: dreams[len(real) :],
            "repeat last": last.expand_as(real),
            "mean frame": trial.train.mean_frame.expand_as(real),
            "reconstruction": world.tokenizer.decode(clip.codes[:, window - 1 + told]).cpu(),
        }
        parts.append({name: compare(real, frames, last, trial.train.bright) for name, frames in made.items()})

    def joined(name: str, measure: str) -> tuple[np.ndarray, np.ndarray]:
        amounts, sizes = zip(*(part[name][measure] for part in parts), strict=True)
        return np.concatenate(amounts), np.concatenate(sizes)

    return {name: {measure: joined(name, measure) for measure in parts[0][name]} for name in parts[0]}


def compare(real: Tensor, made: Tensor, last: Tensor, bright: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Frames against the real ones: (B, n, H, W, 3) uint8 both, `last` (B, 1, H, W, 3) the context's last.

    Returns:
        measure -> amounts and sizes, (B, n) each; SSIM only of frames of 11 pixels and more.
    """
    shape = real.shape[:2]
    x, y = real.flatten(0, 1), made.flatten(0, 1)
    moved = changed(last.expand_as(real).flatten(0, 1), x)
    one = torch.ones(len(x))
    some = moved.flatten(1).any(1)
    pairs = {
        "psnr": (psnr(x, y), one),
        "psnr_changed": (torch.where(some, psnr(x, y, moved), 0.0), some),
        "bright_recall": bright_found(x, y, bright),
        "bright_precision": bright_right(x, y, bright),
    }
    if min(real.shape[2:4]) >= WINDOW:
        pairs["ssim"] = (ssim(x, y), one)

    def numbers(values: Tensor) -> np.ndarray:
        return values.double().reshape(shape).numpy()

    return {name: (numbers(amounts), numbers(sizes)) for name, (amounts, sizes) in pairs.items()}


def by_horizon(trial: WorldTrial, measure: str) -> list[Figure]:
    """A measure of the dream at each horizon, its rivals and its ceiling, the reconstruction, beside it.

    Intervals are by episode.
    """
    table, seed, units = trial.once(scores), trial.settings.seed, trial.clips.episodes
    figures = []
    for i, ahead in enumerate(horizons(trial) if measure in table["dream"] else []):
        columns = {name: tuple(x[:, i] for x in measures[measure]) for name, measures in table.items()}
        found = {name: ratio(amounts, sizes, seed, units) for name, (amounts, sizes) in columns.items()}
        figures.append(Figure(f"{ahead} ahead", found.pop("dream"), found))
    return figures


def control_psnr(trial: WorldTrial) -> list[Figure]:
    """PSNR with the true actions minus PSNR with another clip's, paired by clip and resampled by episode."""
    table = trial.once(scores)
    (true, sizes), (other, _) = table["dream"]["psnr"], table[OTHER]["psnr"]
    return [
        Figure(
            f"{ahead} ahead",
            ratio(true[:, i] - other[:, i], sizes[:, i], trial.settings.seed, trial.clips.episodes),
            {"actions ignored": Estimate(0.0)},
        )
        for i, ahead in enumerate(horizons(trial))
    ]


SECTION = "prediction"
ROWS = (
    *(
        Metric(name, SECTION, says, unit, "higher", partial(by_horizon, measure=name))
        for name, says, unit in (
            ("psnr", "dreamed frames against real ones, mean over frames", "dB"),
            ("ssim", "the same by structure (Wang et al. 2004)", "of 1"),
            ("psnr_changed", "PSNR over pixels that changed since the context's last frame", "dB"),
            ("bright_recall", "small bright things with a dreamed bright pixel at most 2 pixels away", "share"),
            ("bright_precision", "dreamed bright pixels with a real one at most 2 pixels away", "share"),
        )
    ),
    Metric(
        "control_psnr",
        SECTION,
        "PSNR that the true actions are worth over another clip's",
        "dB",
        "higher",
        control_psnr,
    ),
)
