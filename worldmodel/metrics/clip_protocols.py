"""Protocols of the Frechet video distance, and what metrics of clips need: settings and networks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from worldmodel.common.errors import UserError, unknown_name

if TYPE_CHECKING:
    from worldmodel.metrics.detectors import ClipFeatures, Detector
    from worldmodel.metrics.lpips import Lpips


@dataclass(frozen=True)
class Protocol:
    """How a published score is computed. Scores of different protocols cannot be compared.

    Attributes:
        description: whose it is.
        num_clips: of each side.
        num_frames: of a clip.
        resizing: a row of `clip_resizing.RESIZING`.
        ddof: divisor of covariances, N - ddof.
    """

    description: str
    num_clips: int
    num_frames: int
    resizing: str
    ddof: int


PROTOCOLS: dict[str, Protocol] = {
    "videogpt": Protocol("VideoGPT's public code: 256 against 256 clips", 256, 16, "crop", 1),
    "styleganv": Protocol("StyleGAN-V's public code: 2,048 against 2,048 clips", 2048, 16, "stretch", 0),
    "unterthiner": Protocol("the authors' code of FVD (Unterthiner et al. 2018)", 256, 16, "tensorflow1", 1),
}


@dataclass(frozen=True)
class ClipSettings:
    """Settings of metrics of clips.

    Attributes:
        protocol: a row of `PROTOCOLS`.
        detector: a TorchScript file whose features replace those of I3D; None for I3D.
        classifier: a TorchScript file that gives the class logits of the Inception Score; None for I3D's.
        context_frames: first frames of every clip that metrics of pairs leave out, because the model was given them.
        device: "cpu" or "cuda".
        cache: folder of cached features; None for no cache.

    Raises:
        UserError: an unknown protocol, or a negative number of frames.
    """

    protocol: str = "videogpt"
    detector: Path | None = None
    classifier: Path | None = None
    context_frames: int = 0
    device: str = "cpu"
    cache: Path | None = None

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise unknown_name("protocol", self.protocol, PROTOCOLS)
        if self.context_frames < 0:
            raise UserError(f"context_frames={self.context_frames}; wanted 0 or more.")

    @property
    def rules(self) -> Protocol:
        """The row of the protocol."""
        return PROTOCOLS[self.protocol]


class ClipNetworks:
    """The networks that metrics of clips use, each loaded at its first use, and shared by the metrics.

    Args:
        settings: which networks, and where they compute.
    """

    def __init__(self, settings: ClipSettings | None = None) -> None:
        self.settings = settings or ClipSettings()

    def load_detector(self, path: Path | None) -> Detector:
        """The detector of a TorchScript file, or I3D."""
        from worldmodel.metrics.detectors import load_i3d, load_torchscript

        settings = self.settings
        if path is None:
            return load_i3d(settings.rules.resizing, settings.device)
        return load_torchscript(path, settings.rules.resizing, settings.device)

    def load_lpips(self, name: str) -> Lpips:
        """LPIPS by the name of its network."""
        from worldmodel.metrics.lpips import load_lpips

        return load_lpips(name, self.settings.device)

    @cached_property
    def features(self) -> ClipFeatures:
        """Features for distances between sets."""
        from worldmodel.metrics.detectors import ClipFeatures

        return ClipFeatures(self.load_detector(self.settings.detector), self.settings.cache)

    @cached_property
    def logits(self) -> ClipFeatures:
        """Class logits; shares the features where both are I3D's."""
        from worldmodel.metrics.detectors import ClipFeatures

        if self.settings.classifier is None and self.settings.detector is None:
            return self.features
        return ClipFeatures(self.load_detector(self.settings.classifier), self.settings.cache)
