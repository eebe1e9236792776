"""Features of the frames that a clip is conditioned on: a 3D residual network (paper section 3, table 9).

Shapes: B clips, n given frames, H W pixels, r c rows and columns of features, M = n*r*c features, D width, U units.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.common.errors import UserError
from worldmodel.prior.clip.clip_config import ClipConfig
from worldmodel.tokenizer.tokenizer_layers import AttentionResidualBlock, ChannelNorm, PositionEmbedding

HALVINGS = 3  # a feature covers 8 x 8 pixels
NUM_BLOCKS = 2  # of the small network
STAGES = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}  # basic blocks in each stage (He et al. 2016, table 1)
STAGE_STRIDES = (1, 2, 2, 1)  # in space; the stem has 2


class FrameEncoder(nn.Module):
    """Given frames to features, by a small network.

    Args:
        num_frames: n.
        frame_shape: (H, W, 3).
        width: D.
    """

    def __init__(self, num_frames: int, frame_shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.shape = (num_frames, *frame_shape)
        inputs = [3] + [width] * (HALVINGS - 1)
        self.down_convs = nn.ModuleList(nn.Conv3d(n, width, 3, (1, 2, 2), padding=1) for n in inputs)
        self.blocks = nn.ModuleList(AttentionResidualBlock(width, width, 0) for _ in range(NUM_BLOCKS))
        self.norm = ChannelNorm(width)
        self.position_embed = _position_embedding(self.shape, width)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, n, H, W, 3) uint8 -> (B, M, D).

        Raises:
            UserError: frames of another number, size or dtype.
        """
        x = _to_pixels(frames, self.shape)
        for layer in self.down_convs:
            x = layer(x).relu()
        for block in self.blocks:
            x = block(x, None)
        return (self.norm(x).movedim(1, -1) + self.position_embed()).flatten(1, 3)  # (B, n, r, c, D) -> (B, M, D)


class ResNet3D(nn.Module):
    """Given frames to features, by a 3D ResNet: stem, four stages of basic blocks of two convolutions, projection.

    Differences from the ResNet of images: kernels of 3 x 3 x 3, also in the stem; a stride of 8 in space
    and 1 in time, so that frames of 64 x 64 have 8 x 8 features to attend to; LayerNorm over channels in place of batch
    norm, so that the features of a clip do not depend on the other clips of its batch. The stages have U/8, U/4, U/2
    and U channels.

    Args:
        stages: number of blocks in each stage.
        units: U.
        num_frames: n.
        frame_shape: (H, W, 3).
        width: D.
    """

    def __init__(
        self, stages: tuple[int, ...], units: int, num_frames: int, frame_shape: tuple[int, int, int], width: int
    ) -> None:
        super().__init__()
        self.shape = (num_frames, *frame_shape)
        channels = units // 8
        self.stem = nn.Conv3d(3, channels, 3, (1, 2, 2), padding=1, bias=False)
        self.stem_norm = ChannelNorm(channels)
        blocks: list[BasicBlock] = []
        for level, (count, stride) in enumerate(zip(stages, STAGE_STRIDES, strict=True)):
            outputs = units // 8 * 2**level
            for i in range(count):
                blocks.append(BasicBlock(channels, outputs, 1 if i else stride))
                channels = outputs
        self.blocks = nn.ModuleList(blocks)
        self.output_proj = nn.Conv3d(units, width, 1)
        self.norm = ChannelNorm(width)
        self.position_embed = _position_embedding(self.shape, width)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, n, H, W, 3) uint8 -> (B, M, D).

        Raises:
            UserError: frames of another number, size or dtype.
        """
        x = F.relu(self.stem_norm(self.stem(_to_pixels(frames, self.shape))))
        for block in self.blocks:
            x = block(x)
        x = self.norm(self.output_proj(x))  # (B, D, n, r, c)
        return (x.movedim(1, -1) + self.position_embed()).flatten(1, 3)  # (B, n, r, c, D) -> (B, M, D)


class BasicBlock(nn.Module):
    """relu(shortcut(x) + LN(conv(relu(LN(conv(x)))))); the shortcut is x, or a 1 x 1 x 1 convolution and LayerNorm.

    Args:
        inputs, outputs: channels.
        stride: in space, of the first convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv3d(inputs, outputs, 3, (1, stride, stride), padding=1, bias=False)
        self.norm_in = ChannelNorm(outputs)
        self.conv_out = nn.Conv3d(outputs, outputs, 3, padding=1, bias=False)
        self.norm_out = ChannelNorm(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            projection = nn.Conv3d(inputs, outputs, 1, (1, stride, stride), bias=False)
            self.shortcut = nn.Sequential(projection, ChannelNorm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, n, rows, columns) -> (B, outputs, n, rows / stride, columns / stride), rounded up."""
        y = F.relu(self.norm_in(self.conv_in(x)))
        return F.relu(self.shortcut(x) + self.norm_out(self.conv_out(y)))


def make_frame_encoder(config: ClipConfig, frame_shape: tuple[int, int, int]) -> FrameEncoder | ResNet3D | None:
    """The network that `config.frame_encoder` names; None without given frames."""
    if not config.num_given_frames:
        return None
    if config.frame_encoder == "small":
        return FrameEncoder(config.num_given_frames, frame_shape, config.width)
    stages = STAGES[config.frame_encoder]
    return ResNet3D(stages, config.frame_units, config.num_given_frames, frame_shape, config.width)


def _position_embedding(shape: tuple[int, int, int, int], width: int) -> PositionEmbedding:
    num_frames, *sides, _ = shape
    rows, columns = (-(-side // 2**HALVINGS) for side in sides)
    return PositionEmbedding((num_frames, rows, columns), width)


def _to_pixels(frames: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """(B, n, H, W, 3) uint8 -> (B, 3, n, H, W) float32 in [-0.5, 0.5].

    Raises:
        UserError: frames of another number, size or dtype.
    """
    if frames.dtype != torch.uint8 or tuple(frames.shape[1:]) != shape:
        wanted = ", ".join(map(str, shape))
        raise UserError(f"given frames: got {tuple(frames.shape)} {frames.dtype}, wanted (B, {wanted}) uint8.")
    return (frames.float() / 255 - 0.5).movedim(-1, 1)
