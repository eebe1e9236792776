"""Similarity of pairs of clips: generated clip i is a prediction or reconstruction of real clip i.

Shapes: N clips, S samples of a clip, T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from worldmodel.common.errors import UserError
from worldmodel.metrics.clip_metric import ClipAccumulator, ClipMetric, State
from worldmodel.metrics.clip_protocols import ClipNetworks
from worldmodel.metrics.frame_scores import SIGMA, WINDOW, psnr, ssim
from worldmodel.metrics.metric import MetricValue
from worldmodel.metrics.statistics import ratio

Score = Callable[[Tensor, Tensor], Tensor]


class PairedAccumulator(ClipAccumulator):
    """The mean of a score of frames over pairs of clips, with an interval over clips.

    Clips of one set wait until their partners arrive, so give batches of both sets in turn. Of S samples of a clip,
    (N, S, T, H, W, 3), the best one counts, by the mean of the score over its frames.

    Args:
        score: real and generated frames (n, H, W, 3) uint8 -> (n,).
        min_size: smallest H and W that the score is defined for; there is no value for smaller frames.
        better: "higher" or "lower": which of several samples is the best.
        context_frames: first frames of every clip that are left out.
        rules: what the score depends on, for reports.
    """

    def __init__(
        self,
        score: Score,
        min_size: int = 1,
        better: str = "higher",
        context_frames: int = 0,
        rules: Mapping[str, str] | None = None,
    ) -> None:
        self.score, self.min_size, self.better, self.context_frames = score, min_size, better, context_frames
        self.rules = dict(rules or {})
        self._scores: list[np.ndarray] = []  # (n, S): the mean over frames of each pair
        self._waiting: dict[bool, Tensor | None] = {True: None, False: None}

    def update(self, clips: Tensor, is_real: bool) -> None:
        """As `ClipAccumulator.update`; generated clips may be (N, S, T, H, W, 3).

        Raises:
            UserError: pairs of different shapes, or clips without a frame after the context.
        """
        if min(clips.shape[-3:-1]) < self.min_size:
            return
        if clips.shape[-4] <= self.context_frames:
            raise UserError(f"clips of {clips.shape[-4]} frames have none after {self.context_frames} context frames.")
        clips = (clips if clips.ndim == 6 else clips[:, None]).cpu()
        before = self._waiting[is_real]
        self._waiting[is_real] = clips if before is None else torch.cat([before, clips])
        real, generated = self._waiting[True], self._waiting[False]
        if real is None or generated is None:
            return
        if real.shape[2:] != generated.shape[2:]:
            raise UserError(f"clips to compare: got {tuple(real.shape[2:])} and {tuple(generated.shape[2:])}.")
        count = min(len(real), len(generated))
        if not count:
            return
        self._score_pairs(real[:count], generated[:count])
        self._waiting = {True: real[count:], False: generated[count:]}

    def _score_pairs(self, real: Tensor, generated: Tensor) -> None:
        """Score (n, 1, T, H, W, 3) and (n, S, T, H, W, 3), sample by sample to bound memory."""
        frames, scores = real[:, 0, self.context_frames :].flatten(0, 1), []  # (n * T, H, W, 3)
        for sample in generated.unbind(1):
            score = self.score(frames, sample[:, self.context_frames :].flatten(0, 1))  # (n * T,)
            scores.append(score.double().cpu().view(len(real), -1).mean(1))
        self._scores.append(torch.stack(scores, 1).numpy())  # (n, S)

    def compute(self) -> list[MetricValue]:
        """As `ClipAccumulator.compute`."""
        if not self._scores:
            return []
        scores = np.concatenate(self._scores)  # (N, S)
        best = scores.max(1) if self.better == "higher" else scores.min(1)
        value, first = (ratio(x, np.ones(len(x))) for x in (best, scores[:, 0]))
        if scores.shape[1] == 1:
            return [MetricValue("", value)]
        return [MetricValue(f"best of {scores.shape[1]} samples", value, {"first sample": first})]

    def details(self) -> dict[str, str]:
        """As `ClipAccumulator.details`."""
        frames = "all" if not self.context_frames else f"all but the first {self.context_frames}"
        return {"frames": f"mean over {frames}", **self.rules}

    def state(self) -> State:
        """As `ClipAccumulator.state`."""
        waiting = {str(is_real): clips.numpy() for is_real, clips in self._waiting.items() if clips is not None}
        return {**({"scores": np.concatenate(self._scores)} if self._scores else {}), **waiting}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """As `ClipAccumulator.load_state`."""
        self._scores = [state["scores"].copy()] if "scores" in state else []
        self._waiting = {
            is_real: torch.from_numpy(state[str(is_real)].copy()) if str(is_real) in state else None
            for is_real in (True, False)
        }


class NmseAccumulator(PairedAccumulator):
    """The mean squared error of pairs, divided by the variance of all pixels of the real clips (VideoGPT, table 3)."""

    MOMENTS = "moments"

    def __init__(self, context_frames: int = 0) -> None:
        super().__init__(_squared_error, better="lower", context_frames=context_frames)
        self._moments = np.zeros(3)  # of real pixels: number, sum, sum of squares

    def update(self, clips: Tensor, is_real: bool) -> None:
        """As `PairedAccumulator.update`."""
        if is_real:
            pixels = clips.double()
            self._moments += np.array([pixels.numel(), float(pixels.sum()), float(pixels.square().sum())])
        super().update(clips, is_real)

    def compute(self) -> list[MetricValue]:
        """As `ClipAccumulator.compute`; nothing for real clips of a single colour."""
        count, total, squares = self._moments
        variance = squares / max(count, 1) - (total / max(count, 1)) ** 2
        return [value.scaled(1 / variance) for value in super().compute()] if variance > 0 else []

    def details(self) -> dict[str, str]:
        """As `ClipAccumulator.details`."""
        return {**super().details(), "variance": "of all pixels of the real clips"}

    def state(self) -> State:
        """As `ClipAccumulator.state`."""
        return {**super().state(), self.MOMENTS: self._moments.copy()}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """As `ClipAccumulator.load_state`."""
        super().load_state(state)
        self._moments = state[self.MOMENTS].copy()


def _squared_error(real: Tensor, candidate: Tensor) -> Tensor:
    """(n, H, W, 3) uint8, twice -> (n,) float64, in squared levels."""
    return (real.double() - candidate.double()).square().mean((1, 2, 3))


def make_psnr(networks: ClipNetworks) -> PairedAccumulator:
    """PSNR of each frame."""
    return PairedAccumulator(psnr, context_frames=networks.settings.context_frames)


def make_ssim(networks: ClipNetworks) -> PairedAccumulator:
    """SSIM of each frame."""
    variant = f"Gaussian window of {WINDOW} pixels, deviation {SIGMA}, no padding, K = 0.01 and 0.03, mean over colours"
    return PairedAccumulator(ssim, WINDOW, "higher", networks.settings.context_frames, {"variant": variant})


def make_nmse(networks: ClipNetworks) -> NmseAccumulator:
    """Normalised squared error."""
    return NmseAccumulator(networks.settings.context_frames)


def make_lpips(networks: ClipNetworks, name: str) -> PairedAccumulator:
    """LPIPS of each frame, with the features of a network."""
    lpips, settings = networks.load_lpips(name), networks.settings
    rules = {"network": f"{name}, version 0.1", "resizing": "none", "device": settings.device}
    return PairedAccumulator(lpips.frames, lpips.network.MIN_SIZE, "lower", settings.context_frames, rules)


def _row(
    name: str,
    description: str,
    unit: str,
    better: str,
    make: Callable[[ClipNetworks], PairedAccumulator],
    default: bool = False,
) -> ClipMetric:
    return ClipMetric(name, description, unit, better, True, make, default, uses_networks=True)


CLIP_ROWS = (
    _row(
        "psnr",
        "generated frames compared with the real frames of the same clip, mean over frames",
        "dB",
        "higher",
        make_psnr,
        True,
    ),
    _row(
        "ssim",
        "the same by structural similarity (Wang et al. 2004), of frames of 11 pixels and more",
        "of 1",
        "higher",
        make_ssim,
        True,
    ),
    _row("nmse", "squared error divided by the variance of the real clips", "of the variance", "lower", make_nmse),
    _row(
        "lpips",
        "learned perceptual distance of frames (Zhang et al. 2018) by AlexNet; 31 pixels and more",
        "distance",
        "lower",
        partial(make_lpips, name="alex"),
    ),
    _row(
        "lpips_vgg",
        "the same by VGG-16; 16 pixels and more",
        "distance",
        "lower",
        partial(make_lpips, name="vgg"),
    ),
)
