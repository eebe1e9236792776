"""Features of the frames that a clip is conditioned on: a small 3D residual network (paper section 3).

Shapes: B clips, n given frames, H W pixels, r c rows and columns of features, M = n*r*c features, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldmodel.common.errors import UserError
from worldmodel.tokenizer.tokenizer_layers import AttentionResidualBlock, ChannelNorm, PositionEmbedding

HALVINGS = 3  # a feature covers 8 x 8 pixels
NUM_BLOCKS = 2


class FrameEncoder(nn.Module):
    """Given frames to features.

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
        rows, columns = (-(-side // 2**HALVINGS) for side in frame_shape[:2])
        self.position_embed = PositionEmbedding((num_frames, rows, columns), width)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, n, H, W, 3) uint8 -> (B, M, D).

        Raises:
            UserError: frames of another number, size or dtype.
        """
        if frames.dtype != torch.uint8 or tuple(frames.shape[1:]) != self.shape:
            wanted = ", ".join(map(str, self.shape))
            raise UserError(f"given frames: got {tuple(frames.shape)} {frames.dtype}, wanted (B, {wanted}) uint8.")
        x = (frames.float() / 255 - 0.5).movedim(-1, 1)  # (B, 3, n, H, W)
        for layer in self.down_convs:
            x = layer(x).relu()
        for block in self.blocks:
            x = block(x, None)
        return (self.norm(x).movedim(1, -1) + self.position_embed()).flatten(1, 3)  # (B, n, r, c, D) -> (B, M, D)
