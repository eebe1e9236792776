"""Similarity of pairs of clips: generated clip i is a prediction or reconstruction of real clip i.

Shapes: N clips, T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from worldmodel.common.errors import UserError
from worldmodel.metrics.clip_metric import ClipAccumulator, ClipMetric, State
from worldmodel.metrics.frame_scores import WINDOW, psnr, ssim
from worldmodel.metrics.metric import MetricValue
from worldmodel.metrics.statistics import ratio


class PairedAccumulator(ClipAccumulator):
    """The mean of a score of frames over pairs of clips, with an interval over clips.

    Clips of one set wait until their partners arrive, so give batches of both sets in turn.

    Args:
        score: real and generated frames (n, H, W, 3) uint8 -> (n,).
        min_size: smallest H and W that the score is defined for; there is no value for smaller frames.
    """

    def __init__(self, score: Callable[[Tensor, Tensor], Tensor], min_size: int = 1) -> None:
        self.score, self.min_size = score, min_size
        self._scores: list[np.ndarray] = []  # the mean over frames of each pair
        self._waiting: dict[bool, Tensor | None] = {True: None, False: None}

    def update(self, clips: Tensor, is_real: bool) -> None:
        """As `ClipAccumulator.update`."""
        if min(clips.shape[2:4]) < self.min_size:
            return
        before = self._waiting[is_real]
        self._waiting[is_real] = clips.cpu() if before is None else torch.cat([before, clips.cpu()])
        real, generated = self._waiting[True], self._waiting[False]
        if real is None or generated is None:
            return
        if real.shape[1:] != generated.shape[1:]:
            raise UserError(f"clips to compare: got {tuple(real.shape[1:])} and {tuple(generated.shape[1:])}.")
        count = min(len(real), len(generated))
        if not count:
            return
        scores = self.score(real[:count].flatten(0, 1), generated[:count].flatten(0, 1))  # (count * T,)
        self._scores.append(scores.double().view(count, -1).mean(1).numpy())
        self._waiting = {True: real[count:], False: generated[count:]}

    def compute(self) -> list[MetricValue]:
        """As `ClipAccumulator.compute`."""
        scores = np.concatenate([np.zeros(0), *self._scores])
        return [MetricValue("", ratio(scores, np.ones(len(scores))))] if len(scores) else []

    def state(self) -> State:
        """As `ClipAccumulator.state`."""
        waiting = {str(is_real): clips.numpy() for is_real, clips in self._waiting.items() if clips is not None}
        return {"scores": np.concatenate([np.zeros(0), *self._scores]), **waiting}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """As `ClipAccumulator.load_state`."""
        self._scores = [state["scores"].copy()]
        self._waiting = {
            is_real: torch.from_numpy(state[str(is_real)].copy()) if str(is_real) in state else None
            for is_real in (True, False)
        }


CLIP_ROWS = (
    ClipMetric(
        "clip_psnr",
        "generated frames compared with the real frames of the same clip, mean over frames",
        "dB",
        "higher",
        True,
        partial(PairedAccumulator, psnr),
    ),
    ClipMetric(
        "clip_ssim",
        "the same by structural similarity (Wang et al. 2004), of frames of 11 pixels and more",
        "of 1",
        "higher",
        True,
        partial(PairedAccumulator, ssim, WINDOW),
    ),
)
