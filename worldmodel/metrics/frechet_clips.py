"""Frechet distances between sets of clips by features without learned weights: colours and motion of coarse cells.

They cost little, need no download and move in the right direction when colours, positions or motion are wrong. They are
no substitute for FVD: two sets with equal cells may differ in every detail.

Shapes: N clips, T frames, H W pixels, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from worldmodel.metrics.clip_metric import ClipAccumulator, ClipMetric, State
from worldmodel.metrics.frechet import GaussianStatistics, frechet_distance
from worldmodel.metrics.metric import MetricValue
from worldmodel.metrics.statistics import Estimate

CELLS = 4  # the frame is divided into so many rows and columns of cells
REAL, GENERATED, HALVES = "real", "generated", ("even", "odd")


def cell_colours(clips: Tensor) -> np.ndarray:
    """Mean colour of each cell over the clip, in shares of the full range: (N, T, H, W, 3) uint8 -> (N, 48)."""
    mean = clips.float().mean(1).movedim(-1, 1) / 255  # (N, 3, H, W)
    return F.adaptive_avg_pool2d(mean, CELLS).flatten(1).double().cpu().numpy()


def cell_motion(clips: Tensor) -> np.ndarray:
    """Mean absolute change of each cell between consecutive frames: (N, T, H, W, 3) uint8, T >= 2 -> (N, 16)."""
    change = clips.float().diff(dim=1).abs().mean((1, 4)) / 255  # (N, H, W)
    return F.adaptive_avg_pool2d(change[:, None], CELLS).flatten(1).double().cpu().numpy()


class FrechetAccumulator(ClipAccumulator):
    """The Frechet distance between the features of two sets of clips.

    Its baseline "half of the real clips", the noise floor, is the distance between the even and the odd real clips: the
    value of a perfect generator with half as many clips. With all clips the value of a perfect generator is about half.

    Args:
        features: clips (N, T, H, W, 3) uint8 -> (N, F).
    """

    def __init__(self, features: Callable[[Tensor], np.ndarray]) -> None:
        self.features = features
        self._statistics: dict[tuple[str, str], GaussianStatistics] = {}

    def update(self, clips: Tensor, is_real: bool) -> None:
        """As `ClipAccumulator.update`."""
        features, side = self.features(clips), REAL if is_real else GENERATED
        for half in HALVES:
            self._statistics.setdefault((side, half), GaussianStatistics.empty(features.shape[1]))
        first = sum(self._statistics[side, half].count for half in HALVES) % 2  # 1: the next clip is an odd one
        self._statistics[side, HALVES[first]].update(features[::2])
        self._statistics[side, HALVES[1 - first]].update(features[1::2])

    def compute(self) -> list[MetricValue]:
        """As `ClipAccumulator.compute`."""
        if {side for side, _ in self._statistics} != {REAL, GENERATED}:
            return []
        (even, odd), (other_even, other_odd) = (
            [self._statistics[side, half] for half in HALVES] for side in (REAL, GENERATED)
        )
        value = frechet_distance(even.merged(odd), other_even.merged(other_odd))
        floor = {"half of the real clips": Estimate(frechet_distance(even, odd))}
        return [MetricValue("", Estimate(value), floor)] if np.isfinite(value) else []

    def warnings(self) -> list[str]:
        """As `ClipAccumulator.warnings`: too few clips for a covariance."""
        empty = GaussianStatistics.empty(1)
        counts = [sum(self._statistics.get((side, half), empty).count for half in HALVES) for side in (REAL, GENERATED)]
        if min(counts) >= 2:
            return []
        return [
            f"a Frechet distance needs at least 2 clips of each side, got {counts[0]} real and {counts[1]} generated"
        ]

    def state(self) -> State:
        """As `ClipAccumulator.state`."""
        return {
            f"{side}/{half}/{name}": np.asarray(value).copy()
            for (side, half), statistics in self._statistics.items()
            for name, value in vars(statistics).items()
        }

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """As `ClipAccumulator.load_state`."""
        self._statistics = {}
        for side, half in {tuple(name.split("/")[:2]) for name in state}:
            count, mean, scatter = (state[f"{side}/{half}/{name}"].copy() for name in ("count", "mean", "scatter"))
            self._statistics[side, half] = GaussianStatistics(int(count), mean, scatter)


CLIP_ROWS = tuple(
    ClipMetric(name, description, "squared shares of the range", "lower", False, partial(FrechetAccumulator, features))
    for name, description, features in (
        (
            "frechet_pixels",
            "Frechet distance of the mean colours of 4 x 4 cells (no learned features)",
            cell_colours,
        ),
        (
            "frechet_motion",
            "Frechet distance of the mean changes between frames in 4 x 4 cells (no learned features)",
            cell_motion,
        ),
    )
)
