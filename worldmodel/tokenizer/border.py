"""Decode what lies outside the encoded part of a frame.

A tokenizer may encode a part of the frame only (`TokenizerConfig.encoded`), so that no code is spent on a sky or a
floor that hardly changes. The rest of the frame is a function of the codes too: it follows the camera.

Shapes: N frames, d numbers in a code's embedding, h w latent grid of the encoded part, H W pixels of the whole frame,
r c rows and columns of the cells that the border is drawn in, D channels of a cell. A cell has the size of a code's
patch, S x S pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldmodel.common.pixels import Crop
from worldmodel.tokenizer.tokenizer_layers import ResidualBlock

COLUMNS = 5  # width of the kernel: each column of the border sees two more columns of codes to its left and right


class BorderDecoder(nn.Module):
    """Embeddings of codes to the pixels around the encoded part.

    A convolution as high as the latent grid gives channels to each cell, so that every cell sees the codes of all rows
    and of the nearest columns; a learned embedding identifies the cells; residual blocks mix neighbours; each cell
    becomes a patch of pixels. If the
    encoded part is as wide as the frame, only the rows above and below it are computed.

    Args:
        code_dim: d.
        frame_size: (H, W).
        encoded: (top, bottom, left, right) of the encoded part, in pixels.
        stride: S.
        width: channels of a cell.
    """

    def __init__(self, code_dim: int, frame_size: tuple[int, int], encoded: Crop, stride: int, width: int) -> None:
        super().__init__()
        (height, columns), (top, bottom, left, right) = frame_size, encoded
        self.frame_size, self.encoded, self.width = frame_size, encoded, width
        h, w = (bottom - top) // stride, (right - left) // stride
        above, below, before, after = (-(-n // stride) for n in (top, height - bottom, left, columns - right))
        self.has_columns = bool(before or after)
        self.num_rows = above + below + (h if self.has_columns else 0)
        self.first_pixel = (above * stride - top, before * stride - left)  # of the frame in the cells' pixels
        self.pad_columns = nn.ReplicationPad2d((before, after, 0, 0))
        self.to_cells = nn.Conv2d(code_dim, self.num_rows * width, (h, COLUMNS), padding=(0, COLUMNS // 2))
        self.cell_embed = nn.Parameter(torch.zeros(width, self.num_rows, before + w + after))
        self.blocks = nn.Sequential(ResidualBlock(width), ResidualBlock(width), nn.SiLU())
        self.to_pixels = nn.Sequential(nn.Conv2d(width, 3 * stride**2, 1), nn.PixelShuffle(stride))

    def forward(self, latents: Tensor, inside: Tensor) -> Tensor:
        """Draw the border around the encoded part.

        Args:
            latents: (N, d, h, w), embeddings of the codes.
            inside: (N, 3, bottom - top, right - left), pixels of the encoded part.

        Returns:
            (N, 3, H, W).
        """
        (height, width), (top, bottom, left, right) = self.frame_size, self.encoded
        cells = self.to_cells(latents).squeeze(2)  # (N, r*D, w)
        cells = self.pad_columns(cells.unflatten(1, (self.width, self.num_rows)))  # (N, D, r, c)
        drawn = self.to_pixels(self.blocks(cells + self.cell_embed))  # (N, 3, r*S, c*S)
        row, column = self.first_pixel
        drawn = drawn[:, :, row:, column : column + width]  # begins at the first pixel of the frame
        if not self.has_columns:
            return torch.cat([drawn[:, :, :top], inside, drawn[:, :, top : top + height - bottom]], 2)
        middle = torch.cat([drawn[:, :, top:bottom, :left], inside, drawn[:, :, top:bottom, right:]], 3)
        return torch.cat([drawn[:, :, :top], middle, drawn[:, :, bottom:height]], 2)
