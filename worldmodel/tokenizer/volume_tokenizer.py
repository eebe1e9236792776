"""The base class of tokenizers with a time axis: clips that are encoded together, or sequences that are streamed.

Shapes: N sequences, L frames of each, H W pixels. Inside, pixels are float (N, 3, L, H, W), standardised.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from worldmodel.tokenizer.tokenizer import Tokenizer
from worldmodel.tokenizer.tokenizer_config import TokenizerConfig


class VolumeTokenizer(Tokenizer):
    """A tokenizer whose units have a time axis."""

    def _training_units(self, frames: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        frames, valid = self._to_units(frames, 1), self._to_units(valid, 1)
        has_frame = valid.any(1)  # a clip without a valid frame is left out
        return fill_invalid(frames[has_frame], valid[has_frame]), valid[has_frame].flatten()

    def _flatten_time(self, pixels: Tensor) -> Tensor:
        return rearrange(pixels, "n c l h w -> (n l) c h w")

    def _rare_pixels(self, pixels: Tensor) -> Tensor:
        change = F.pad(pixels.diff(dim=2).abs(), (0, 0, 0, 0, 1, 0))  # (N, 3, L, H, W), 0 in the first frame
        return super()._rare_pixels(pixels) | (change > self.rare_distance[:, None]).any(1, keepdim=True)


def conv_strides(config: TokenizerConfig) -> list[tuple[int, int, int]]:
    """Strides (time, rows, columns) of the encoder's convolutions, at least one.

    A time stride of 4 and a space stride of 2 give (2, 2, 2) and (2, 1, 1).
    """
    halvings = [stride.bit_length() - 1 for stride in (config.time_stride, config.space_stride, config.space_stride)]
    levels = range(max(1, *halvings))
    return [(1 + (i < halvings[0]), 1 + (i < halvings[1]), 1 + (i < halvings[2])) for i in levels]


def fill_invalid(frames: Tensor, valid: Tensor) -> Tensor:
    """Replace each invalid frame by the last valid frame before it, else by the first valid frame of the clip.

    Args:
        frames: (N, L, ...).
        valid: (N, L) bool, at least one True in each row.
    """
    index = torch.arange(valid.shape[1], device=valid.device)
    last = torch.where(valid, index, -1).cummax(1).values  # (N, L), -1 before the first valid frame
    source = torch.where(last < 0, valid.int().argmax(1, keepdim=True), last)
    return frames[torch.arange(len(frames), device=frames.device)[:, None], source]
