"""Layers of the tokenizers: a residual block for frames, the paper's attention residual block for clips.

Shapes: N frames or clips, D channels, T h w a volume of latents (time, rows, columns).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def init_zero(layer: nn.Conv2d | nn.Conv3d | nn.Linear) -> None:
    """Set weight and bias to zero, so that a residual branch that ends with the layer starts as nothing."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


class ResidualBlock(nn.Module):
    """x + conv1(silu(conv3(silu(x)))). The last convolution starts at zero. There is no normalisation layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(width, width, 3, padding=1)
        self.conv1 = nn.Conv2d(width, width, 1)
        init_zero(self.conv1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, rows, columns) -> the same shape."""
        return x + self.conv1(F.silu(self.conv3(F.silu(x))))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each place, epsilon inside the root: (N, D, ...) -> the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; a place whose channels are all equal gives the bias."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class AxialAttention(nn.Module):
    """Multi-head attention along one axis of a volume; the other axes are batch axes. Its output starts at zero.

    Args:
        width: D.
        num_heads: a divisor of D.
        axis: of (N, T, h, w, D): 1, 2 or 3.
    """

    def __init__(self, width: int, num_heads: int, axis: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.axis = axis
        self.qkv_proj = nn.Linear(width, 3 * width, bias=False)
        self.out_proj = nn.Linear(width, width)
        init_zero(self.out_proj)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, h, w, D) -> the same shape."""
        x = x.movedim(self.axis, -2)  # (N, two other axes, n, D)
        qkv = rearrange(self.qkv_proj(x), "b i j n (three k d) -> three (b i j) k n d", three=3, k=self.num_heads)
        y = F.scaled_dot_product_attention(*qkv.unbind(0))  # (N*i*j, heads, n, D/heads)
        y = rearrange(y, "(b i j) k n d -> b i j n (k d)", b=x.shape[0], i=x.shape[1])
        return self.out_proj(y).movedim(-2, self.axis)


class AttentionResidualBlock(nn.Module):
    """The paper's attention residual block (section 2.1).

    x + attention(relu(LN(conv1(relu(LN(conv3(relu(LN(x))))))))), where attention is the sum of one along W, one
    along H and one along T. Without attention (table 3) the block ends with conv1. The last layer starts at zero, so
    the block starts as the identity.

    Args:
        width: D (the paper's hidden units).
        residual_width: channels between the two convolutions (the paper's residual units).
        num_heads: heads of each attention; 0 for no attention.
    """

    def __init__(self, width: int, residual_width: int, num_heads: int) -> None:
        super().__init__()
        self.norm_conv3 = ChannelNorm(width)
        self.conv3 = nn.Conv3d(width, residual_width, 3, padding=1)
        self.norm_conv1 = ChannelNorm(residual_width)
        self.conv1 = nn.Conv3d(residual_width, width, 1)
        if num_heads:
            self.norm_attention = ChannelNorm(width)
            self.attention = nn.ModuleList(AxialAttention(width, num_heads, axis) for axis in (3, 2, 1))
        else:
            init_zero(self.conv1)

    def forward(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """Apply the block.

        Args:
            x: (N, D, T, h, w).
            positions: (T, h, w, D), position embeddings for the attention; None for a block without attention.

        Returns:
            (N, D, T, h, w).
        """
        y = self.conv1(F.relu(self.norm_conv1(self.conv3(F.relu(self.norm_conv3(x))))))
        if positions is not None:
            y = F.relu(self.norm_attention(y)).movedim(1, -1) + positions  # (N, T, h, w, D)
            y = torch.stack([attention(y) for attention in self.attention]).sum(0).movedim(-1, 1)
        return x + y


class PositionEmbedding(nn.Module):
    """Learned embeddings of time, row and column, summed by broadcasting. One instance serves all attention layers.

    Args:
        shape: (T, h, w).
        width: D.
    """

    def __init__(self, shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.axes = nn.ParameterList(nn.Parameter(torch.randn(n, width) * 0.02) for n in shape)

    def forward(self) -> Tensor:
        """(T, h, w, D)."""
        time, rows, columns = self.axes
        return time[:, None, None] + rows[:, None] + columns
