"""Learned perceptual distance of images LPIPS (Zhang et al. 2018, arXiv 1801.03924), version 0.1.

The distance compares features of a classifier of ImageNet at five depths: features are scaled to unit length at each
place, their squared differences are weighted per channel, averaged over places and summed over depths.

Shapes: N images, H W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.metrics.pretrained import load_pretrained

EPSILON = 1e-10  # keeps features of length 0
CHUNK = 32  # images at once, to bound memory
# The mean and deviation of ImageNet, for images in [-1, 1].
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class AlexNetFeatures(nn.Module):
    """The convolutions of AlexNet (Krizhevsky 2014); features after each ReLU."""

    WIDTHS = (64, 192, 384, 256, 256)
    MIN_SIZE = 31  # pixels; smaller images vanish in the pooling

    def __init__(self) -> None:
        super().__init__()
        kernels, inputs = ((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1)), (3, *self.WIDTHS[:-1])
        self.convs = nn.ModuleList(
            nn.Conv2d(width, out, kernel, stride, padding)
            for width, out, (kernel, stride, padding) in zip(inputs, self.WIDTHS, kernels, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> five of (N, C, h, w)."""
        features = []
        for i, conv in enumerate(self.convs):
            x = F.relu(conv(F.max_pool2d(x, 3, 2) if i in (1, 2) else x))
            features.append(x)
        return features


class VggFeatures(nn.Module):
    """The convolutions of VGG-16 (Simonyan and Zisserman 2014); features of the last layer of each of five blocks."""

    WIDTHS = (64, 128, 256, 512, 512)
    DEPTHS = (2, 2, 3, 3, 3)  # convolutions of each block
    MIN_SIZE = 16  # pixels

    def __init__(self) -> None:
        super().__init__()
        inputs = [3, *(width for width, depth in zip(self.WIDTHS, self.DEPTHS, strict=True) for _ in range(depth))]
        self.convs = nn.ModuleList(nn.Conv2d(width, out, 3, padding=1) for width, out in pairwise(inputs))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> five of (N, C, h, w)."""
        features, convs = [], iter(self.convs)
        for block, depth in enumerate(self.DEPTHS):
            x = F.max_pool2d(x, 2) if block else x
            for _ in range(depth):
                x = F.relu(next(convs)(x))
            features.append(x)
        return features


class Lpips(nn.Module):
    """The distance of two images.

    Args:
        network: from images to features at several depths; its `WIDTHS` are their channels.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, network: AlexNetFeatures | VggFeatures) -> None:
        super().__init__()
        self.network = network
        self.weights = nn.ParameterList(nn.Parameter(torch.ones(width)) for width in network.WIDTHS)  # of channels
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None], persistent=False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances of pairs of images.

        Args:
            first, second: (N, 3, H, W) float in [-1, 1].

        Returns:
            (N,), 0 for equal images.
        """
        both = self.network((torch.cat([first, second]) - self.shift) / self.scale)
        return weighted_distance([x.chunk(2) for x in both], list(self.weights))

    def frames(self, real: Tensor, candidate: Tensor) -> Tensor:
        """Distances of pairs of frames: two (n, H, W, 3) uint8 -> (n,) float64 on the CPU."""
        found = []
        with torch.inference_mode():
            for pair in zip(real.split(CHUNK), candidate.split(CHUNK), strict=True):
                first, second = (
                    x.to(self.weights[0].device).movedim(-1, 1).float() / 127.5 - 1 for x in pair
                )  # (n, 3, H, W)
                found.append(self(first, second).double().cpu())
        return torch.cat(found)


def weighted_distance(features: Sequence[Sequence[Tensor]], weights: Sequence[Tensor]) -> Tensor:
    """Equation 1 of the paper.

    Args:
        features: for each depth the features of both images, (N, C, h, w) each.
        weights: for each depth (C,), not negative; the square of w in the paper.

    Returns:
        (N,): the sum over depths of the mean over places of the weighted squared difference.
    """
    total = torch.zeros((), device=features[0][0].device)
    for (first, second), weight in zip(features, weights, strict=True):
        difference = _unit_length(first) - _unit_length(second)
        total = total + torch.einsum("nchw,c->n", difference.square(), weight) / difference[0, 0].numel()
    return total


def _unit_length(features: Tensor) -> Tensor:
    """Features scaled to length 1 over channels: (N, C, h, w)."""
    return features / (features.square().sum(1, keepdim=True).sqrt() + EPSILON)


def lpips_state(arrays: Mapping[str, Tensor], network: str) -> dict[str, Tensor]:
    """The state of `Lpips` from the published weights.

    Args:
        arrays: by names as "AlexNet_0:Conv_1:kernel"; kernels are (h, w, in, out).
        network: the first part of the names.

    Raises:
        KeyError: a weight is missing.
    """
    state = {f"weights.{i}": arrays[f"NetLinLayer_{i}:Conv_0:kernel"].flatten() for i in range(5)}
    for i in range(sum(name.startswith(network) for name in arrays) // 2):
        state[f"network.convs.{i}.weight"] = arrays[f"{network}:Conv_{i}:kernel"].permute(3, 2, 0, 1).contiguous()
        state[f"network.convs.{i}.bias"] = arrays[f"{network}:Conv_{i}:bias"]
    return state


NETWORKS: dict[str, tuple[str, str, Callable[[], AlexNetFeatures | VggFeatures]]] = {
    "alex": ("lpips-alexnet", "AlexNet_0", AlexNetFeatures),
    "vgg": ("lpips-vgg16", "VGG16_0", VggFeatures),
}


def load_lpips(name: str, device: torch.device | str = "cpu") -> Lpips:
    """The distance with its published weights.

    Args:
        name: "alex" or "vgg".
        device: where it computes.

    Raises:
        UserError: the weights are not in the cache and cannot be fetched.
    """
    asset, prefix, features = NETWORKS[name]
    return load_pretrained(Lpips(features()), asset, partial(lpips_state, network=prefix), device)
