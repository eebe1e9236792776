"""Layers whose output at a time depends on inputs up to that time: convolutions, attention, a residual block.

Shapes: N sequences, D channels, T steps of time, h w a grid of places, R steps of the attention's window.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.tokenizer.stream_state import Stream
from worldmodel.tokenizer.tokenizer_layers import AxialAttention, ChannelNorm, init_zero

CONV_PAST = 2  # steps before the present one in the convolution of a residual block, whose kernel is 3


class CausalDownConv(nn.Module):
    """A convolution that halves the axes with stride 2. In time its last input is the newest that the output spans.

    Its kernel is 3 in space, as in the paper (table 8). In time it is 3 with stride 2, so that it needs one past
    step, and 1 with stride 1: time is then mixed by the residual blocks alone.

    Args:
        inputs, outputs: channels.
        stride: of time, rows and columns, each 1 or 2.
    """

    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.past = stride[0] - 1
        self.conv = nn.Conv3d(inputs, outputs, (2 * stride[0] - 1, 3, 3), stride, (0, 1, 1))

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """(N, inputs, T, h, w) -> (N, outputs, T / stride, h / stride, w / stride)."""
        return self.conv(stream.prepend(x, self.past))


class CausalUpConv(nn.Module):
    """The transposed convolution that reverses `CausalDownConv`.

    Its kernel is 4 along an axis that is doubled (table 8); else 3 in space and 1 in time.

    Args:
        inputs, outputs: channels.
        stride: of time, rows and columns, each 1 or 2.
    """

    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.past = stride[0] - 1
        kernel = (3 * stride[0] - 2, stride[1] + 2, stride[2] + 2)
        self.conv = nn.ConvTranspose3d(inputs, outputs, kernel, stride, (2 * self.past, 1, 1))

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """(N, inputs, T, h, w) -> (N, outputs, T * stride, h * stride, w * stride)."""
        return self.conv(stream.prepend(x, self.past))


class TemporalAttention(nn.Module):
    """Multi-head attention of each place to itself in the last R steps. Its output starts at zero.

    A learned bias for each head and distance in time takes the place of position embeddings, since a sequence may be
    of any length.

    Args:
        width: D.
        num_heads: a divisor of D.
        window: R, the present step included.
    """

    def __init__(self, width: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads, self.window = num_heads, window
        self.qkv_proj = nn.Linear(width, 3 * width, bias=False)
        self.out_proj = nn.Linear(width, width)
        self.distance_bias = nn.Parameter(torch.zeros(num_heads, window))
        init_zero(self.out_proj)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """(N, T, h, w, D) -> the same shape."""
        num_steps, past = x.shape[1], self.window - 1
        q, new = self.qkv_proj(x).split([x.shape[-1], 2 * x.shape[-1]], -1)
        kv = stream.prepend(new.permute(0, 4, 1, 2, 3), past)  # (N, 2D, S, h, w), S = R - 1 + T
        k, v = kv.permute(0, 3, 4, 2, 1).chunk(2, -1)  # (N, h, w, S, D)
        q, k, v = (self._split_heads(y) for y in (q.permute(0, 2, 3, 1, 4), k, v))  # (N, h, w, heads, T or S, D/heads)
        logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + self._bias(num_steps)  # (N, h, w, heads, T, S)
        if past:
            before_start = stream.before_start(past, num_steps)  # (N or 1, S)
            logits = logits.masked_fill(before_start[:, None, None, None, None], -torch.inf)
        y = (logits.softmax(-1) @ v).movedim(3, 4).flatten(4)  # (N, h, w, T, D)
        return self.out_proj(y).permute(0, 3, 1, 2, 4)

    def _split_heads(self, x: Tensor) -> Tensor:
        """(N, h, w, n, D) -> (N, h, w, heads, n, D/heads)."""
        return x.unflatten(-1, (self.num_heads, -1)).movedim(-2, 3)

    def _bias(self, num_steps: int) -> Tensor:
        """The learned bias; minus infinity outside the window: (heads, T, S)."""
        device = self.distance_bias.device
        present = torch.arange(num_steps, device=device)[:, None] + self.window - 1
        distance = present - torch.arange(num_steps + self.window - 1, device=device)  # (T, S)
        bias = self.distance_bias[:, distance.clamp(0, self.window - 1)]
        return bias.masked_fill((distance < 0) | (distance >= self.window), -torch.inf)


class CausalResidualBlock(nn.Module):
    """The paper's attention residual block (section 2.1), causal in time.

    As `AttentionResidualBlock`, but the convolution is padded on the left in time, and the attention in time is a
    `TemporalAttention`. The block starts as the identity.

    Args:
        width: D (the paper's hidden units).
        residual_width: channels between the two convolutions (the paper's residual units).
        num_heads: heads of each attention; 0 for no attention.
        window: R.
    """

    def __init__(self, width: int, residual_width: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.norm_conv3 = ChannelNorm(width)
        self.conv3 = nn.Conv3d(width, residual_width, 3, padding=(0, 1, 1))
        self.norm_conv1 = ChannelNorm(residual_width)
        self.conv1 = nn.Conv3d(residual_width, width, 1)
        if num_heads:
            self.norm_attention = ChannelNorm(width)
            self.space_attention = nn.ModuleList(AxialAttention(width, num_heads, axis) for axis in (3, 2))
            self.time_attention = TemporalAttention(width, num_heads, window)
        else:
            init_zero(self.conv1)

    def forward(self, x: Tensor, positions: Tensor | None, stream: Stream) -> Tensor:
        """Apply the block.

        Args:
            x: (N, D, T, h, w).
            positions: (1, h, w, D), position embeddings for the attention; None for a block without attention.
            stream: the past.

        Returns:
            (N, D, T, h, w).
        """
        y = self.conv3(stream.prepend(F.relu(self.norm_conv3(x)), CONV_PAST))
        y = self.conv1(F.relu(self.norm_conv1(y)))
        if positions is not None:
            y = F.relu(self.norm_attention(y)).movedim(1, -1) + positions  # (N, T, h, w, D)
            rows, columns = (attention(y) for attention in self.space_attention)
            y = (rows + columns + self.time_attention(y, stream)).movedim(-1, 1)
        return x + y
