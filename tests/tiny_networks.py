"""Networks that take no time, in place of those with published weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from worldmodel.metrics.clip_protocols import ClipNetworks, ClipSettings
from worldmodel.metrics.detectors import Detector
from worldmodel.metrics.lpips import AlexNetFeatures, Lpips


def mean_colours(clips: torch.Tensor) -> np.ndarray:
    """The mean colour of a clip: (N, T, H, W, 3) uint8 -> (N, 3)."""
    return clips.double().mean((1, 2, 3)).numpy()


class MeanColours(Detector):
    """Features that are the mean colour; counts its calls."""

    name, min_frames, resizing, device = "mean colours", 1, "crop", "cpu"

    def __init__(self, identity: str) -> None:
        self.identity, self.calls = identity, 0

    def features(self, clips: torch.Tensor) -> np.ndarray:
        self.calls += 1
        return mean_colours(clips)


class OneConvolution(AlexNetFeatures):
    """Features of a single convolution."""

    WIDTHS = (8,)  # type: ignore[assignment]
    MIN_SIZE = 1

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.convs = torch.nn.ModuleList([torch.nn.Conv2d(3, 8, 1)])


class TinyLpips(Lpips):
    """LPIPS of a random convolution that takes frames of any size."""

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            super().__init__(OneConvolution())
        self.eval().requires_grad_(False)


class TinyNetworks(ClipNetworks):
    """Mean colours instead of I3D, a random convolution instead of LPIPS."""

    def __init__(self, settings: ClipSettings | None = None, identity: str = "tiny") -> None:
        super().__init__(settings)
        self.detector = MeanColours(identity)

    def load_detector(self, path: Path | None) -> Detector:
        return self.detector

    def load_lpips(self, name: str) -> Lpips:
        return TinyLpips()
