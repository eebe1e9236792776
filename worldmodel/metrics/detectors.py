"""Detectors: networks from clips to feature vectors, for distances between sets of clips.

Shapes: N clips, T frames, H W pixels, F features.
"""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.common.assets import ASSETS
from worldmodel.common.errors import UserError
from worldmodel.common.files import atomic_path
from worldmodel.metrics.clip_resizing import RESIZING, network_input
from worldmodel.metrics.i3d import I3D, MIN_FRAMES, SIZE, i3d_state
from worldmodel.metrics.pretrained import load_pretrained

I3D_ASSET = "i3d-kinetics-400"
CHUNK = 4  # clips at once, to bound memory
PUBLISHED_OPTIONS = {"rescale": False, "resize": False, "return_features": True}


class Detector(ABC):
    """A network from clips to feature vectors.

    Attributes:
        name: what the features are, for reports.
        identity: text that differs where features differ: weights, resizing, device.
        min_frames: shortest clips that it takes.
        resizing: a row of `RESIZING`.
    """

    name: str
    identity: str
    min_frames: int
    resizing: str
    device: str

    @abstractmethod
    def features(self, clips: Tensor) -> np.ndarray:
        """(N, T, H, W, 3) uint8 -> (N, F) float64."""


class NetworkDetector(Detector):
    """A torch network as detector.

    Args:
        network: (N, 3, T, 224, 224) float in [-1, 1] -> (N, F).
        name, identity, min_frames, resizing, device: as the attributes of `Detector`; `identity` is of the weights.
    """

    def __init__(self, network: Any, name: str, identity: str, min_frames: int, resizing: str, device: str) -> None:
        self.network, self.name, self.min_frames, self.resizing = network, name, min_frames, resizing
        self.device = torch.device(device).type
        self.identity = f"{identity} {resizing} {SIZE} {self.device}"

    def features(self, clips: Tensor) -> np.ndarray:
        """As `Detector.features`.

        Raises:
            UserError: clips shorter than `min_frames`, or the network fails on them or returns something else.
        """
        if clips.shape[1] < self.min_frames:
            raise UserError(f"{self.name} needs clips of {self.min_frames} frames or more, got {clips.shape[1]}.")
        found = []
        with torch.inference_mode():
            for part in clips.split(CHUNK):
                inputs = network_input(part.to(self.device), SIZE, self.resizing)
                try:
                    output = self.network(inputs)
                except RuntimeError as error:
                    reason = str(error).strip().splitlines()[-1]
                    raise UserError(f"{self.name} failed on clips of shape {tuple(inputs.shape)}: {reason}") from error
                if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(part):
                    got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                    raise UserError(f"{self.name} returns {got} for {len(part)} clips; wanted a tensor (N, features).")
                found.append(output.double().cpu().numpy())
        return np.concatenate(found)


def load_i3d(resizing: str, device: str = "cpu") -> Detector:
    """I3D with its weights of Kinetics-400; the features are the 400 logits.

    Raises:
        UserError: the weights are not in the cache and cannot be fetched.
    """
    network = load_pretrained(I3D(), I3D_ASSET, i3d_state, device)
    return NetworkDetector(network, "I3D Kinetics-400 logits", ASSETS[I3D_ASSET].sha256, MIN_FRAMES, resizing, device)


def load_torchscript(path: Path, resizing: str, device: str = "cpu") -> Detector:
    """A network of a user's TorchScript file, (N, 3, T, 224, 224) in [-1, 1] -> (N, F).

    The published TorchScript files of I3D and Inception take the arguments `rescale`, `resize` and `return_features`:
    they compute features of clips that are resized and scaled already. TorchScript can contain code: load files
    that you trust.

    Raises:
        UserError: the file cannot be read as TorchScript.
    """
    if not path.is_file():
        raise UserError(f"'{path}' is not a file; wanted a network saved by torch.jit.save.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch recommends torch.export; the files are TorchScript
        try:
            module = torch.jit.load(str(path), map_location=device).eval()
        except (RuntimeError, ValueError) as error:
            raise UserError(f"'{path}' cannot be read: wanted a network saved by torch.jit.save.") from error
    names = {argument.name for argument in module.forward.schema.arguments}
    options = {name: value for name, value in PUBLISHED_OPTIONS.items() if name in names}

    def network(clips: Tensor) -> Tensor:
        return module(clips, **options)

    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return NetworkDetector(network, path.name, sha256, 1, resizing, device)


class ClipFeatures:
    """Features of clips for several metrics: those of the last batch are kept in memory, and all of them in files.

    So the features of real clips are computed once for many comparisons, and a command that was stopped continues.

    Args:
        detector: computes the features.
        cache: folder of files with the features of batches, named by the hash of clips and detector; None for no
            cache.
    """

    def __init__(self, detector: Detector, cache: Path | None = None) -> None:
        self.detector, self.cache = detector, cache
        self._clips: Tensor | None = None
        self._features = np.zeros((0, 0))

    def __call__(self, clips: Tensor) -> np.ndarray:
        """(N, T, H, W, 3) uint8 -> (N, F) float64."""
        if clips is not self._clips:
            found = self.detector.features(clips) if self.cache is None else self._cached(clips)
            self._clips, self._features = clips, found
        return self._features

    def _cached(self, clips: Tensor) -> np.ndarray:
        assert self.cache is not None
        digest = hashlib.sha256(f"{self.detector.identity} {tuple(clips.shape)} ".encode())
        digest.update(clips.cpu().contiguous().numpy().data)
        path = self.cache / f"{digest.hexdigest()}.npy"
        if path.is_file():
            try:
                found = np.load(path, allow_pickle=False)
                if found.ndim == 2 and len(found) == len(clips):
                    return found
            except (ValueError, EOFError, OSError):
                pass  # damaged: computed again
        found = self.detector.features(clips)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, found)
        return found

    def details(self) -> dict[str, str]:
        """What the features depend on, for reports."""
        return {
            "features": self.detector.name,
            "resizing": f"{SIZE} x {SIZE}, {RESIZING[self.detector.resizing][0]}",
            "rounding": "uint8 frames, not rounded after resizing",
            "context": "all frames of a clip; those given to a model as it decodes them",
            "device": self.detector.device,
        }
