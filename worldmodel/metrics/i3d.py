"""The inflated Inception network I3D (Carreira and Zisserman 2017, arXiv 1705.07750), for features of clips.

Its logits on Kinetics-400 are the features of the Frechet video distance (Unterthiner et al. 2018). The network only
predicts; batch normalisation is folded into the convolutions.

Shapes: N clips, T frames, H W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_CLASSES = 400
MIN_FRAMES = 9  # fewer leave less than the two time steps that the last pooling takes
SIZE = 224  # H and W
BATCH_NORM_EPSILON = 1e-3
Size = tuple[int, int, int]  # time, rows, columns

# Figure 3 of the paper. Output channels of a module: of its 1x1x1 branch; of the reduction and the 3x3x3 convolution
# of two branches; of the 1x1x1 convolution after the pooling branch.
MODULES: dict[str, tuple[int, int, int, int, int, int]] = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
# Pooling before a module: window and stride.
POOLING: dict[str, tuple[Size, Size]] = {
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}


def pad_same(x: Tensor, kernel: Size, stride: Size) -> Tensor:
    """Pad with zeros so that an operation gives ceil(size / stride), as TensorFlow's "SAME" does.

    Where the padding is odd, the larger half comes last. Zeros suit the pooling too: it follows a ReLU.
    """
    padding: list[int] = []
    for size, k, s in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding) if any(padding) else x


def max_pool_same(x: Tensor, kernel: Size, stride: Size) -> Tensor:
    """Maximum over windows with `pad_same`, of values that are not negative."""
    return F.max_pool3d(pad_same(x, kernel, stride), kernel, stride)


class Unit(nn.Module):
    """Convolution with "SAME" padding, (folded) batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, C', T/stride, H/stride, W/stride)."""
        return F.relu_(self.conv(pad_same(x, self.kernel, self.stride)))


class InceptionModule(nn.Module):
    """Four branches side by side; their channels are concatenated."""

    def __init__(self, inputs: int, channels: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        one, reduce_1, three_1, reduce_2, three_2, pooled = channels
        self.branch_0 = Unit(inputs, one, 1)
        self.branch_1 = nn.Sequential(Unit(inputs, reduce_1, 1), Unit(reduce_1, three_1, 3))
        self.branch_2 = nn.Sequential(Unit(inputs, reduce_2, 1), Unit(reduce_2, three_2, 3))
        self.branch_3 = Unit(inputs, pooled, 1)
        self.num_outputs = one + three_1 + three_2 + pooled

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, C', T, H, W)."""
        pooled = max_pool_same(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.branch_0(x), self.branch_1(x), self.branch_2(x), self.branch_3(pooled)], 1)


class I3D(nn.Module):
    """The network from frames to logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_1a = Unit(3, 64, 7, 2)
        self.conv_2b = Unit(64, 64, 1)
        self.conv_2c = Unit(64, 192, 3)
        self.mixed, width = nn.ModuleDict(), 192
        for name, channels in MODULES.items():
            module = InceptionModule(width, channels)
            self.mixed[name], width = module, module.num_outputs
        self.logits = nn.Conv3d(width, NUM_CLASSES, 1)

    def forward(self, clips: Tensor) -> Tensor:
        """Logits, averaged over time.

        Args:
            clips: (N, 3, T, 224, 224) float in [-1, 1], T at least `MIN_FRAMES`.

        Returns:
            (N, 400).
        """
        x = max_pool_same(self.conv_1a(clips), (1, 3, 3), (1, 2, 2))  # (N, 64, T/2, 56, 56)
        x = self.conv_2c(self.conv_2b(x))
        for name, module in self.mixed.items():
            if name in POOLING:
                x = max_pool_same(x, *POOLING[name])
            x = module(x)
        x = F.avg_pool3d(x, (2, 7, 7), 1)  # (N, 1024, T/8 - 1, 1, 1)
        return self.logits(x).mean((2, 3, 4))


def i3d_state(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of `I3D` from the published weights.

    Args:
        arrays: by names as "params:Mixed_3b:Branch_0/Conv3d_0a_1x1:Conv_0:kernel"; kernels are (t, h, w, in, out).

    Raises:
        KeyError: a weight is missing.
    """
    sources = {"conv_1a": "Conv3d_1a_7x7", "conv_2b": "Conv3d_2b_1x1", "conv_2c": "Conv3d_2c_3x3"}
    for name in MODULES:
        for branch, unit in (
            ("branch_0", "Branch_0/Conv3d_0a_1x1"),
            ("branch_1.0", "Branch_1/Conv3d_0a_1x1"),
            ("branch_1.1", "Branch_1/Conv3d_0b_3x3"),
            ("branch_2.0", "Branch_2/Conv3d_0a_1x1"),
            ("branch_2.1", "Branch_2/Conv3d_0b_3x3"),
            ("branch_3", "Branch_3/Conv3d_0b_1x1"),
        ):
            sources[f"mixed.{name}.{branch}"] = f"{name}:{unit}"
    state = {}
    for target, source in sources.items():
        mean, variance = (
            arrays[f"batch_stats:{source}:BatchNorm_0:{part}"].flatten().double() for part in ("mean", "var")
        )
        scale = (variance + BATCH_NORM_EPSILON).rsqrt()
        kernel = arrays[f"params:{source}:Conv_0:kernel"].double() * scale
        offset = arrays[f"params:{source}:BatchNorm_0:bias"].double() - mean * scale
        state[f"{target}.conv.weight"] = kernel.permute(4, 3, 0, 1, 2).float().contiguous()
        state[f"{target}.conv.bias"] = offset.float()
    last = "params:Logits/Conv3d_0c_1x1:Conv_0"
    state["logits.weight"] = arrays[f"{last}:kernel"].permute(4, 3, 0, 1, 2).float().contiguous()
    state["logits.bias"] = arrays[f"{last}:bias"].float()
    return state
