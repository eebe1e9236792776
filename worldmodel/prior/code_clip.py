"""A clip after the tokenizer: what a prior learns from.

Shapes: B clips, T frames in a clip, h w code grid, A action size, V codes in the codebook.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CodeClip:
    """B clips of codes. `actions[:, t]` takes frame t to frame t+1 and earns `rewards[:, t]`.

    Attributes:
        codes: (B, T, h, w) int64 in [0, V).
        frame_valid: (B, T) bool; the codes and status of an invalid frame have no influence.
        actions: (B, T-1) or (B, T-1, A), int64, or float32 for Box.
        rewards: (B, T-1) float32.
        terminations, truncations: (B, T-1) bool.
        status: (B, T) int64, the bin of the hidden variable; any value where no status is learned.
        weights: (B, T) float32, weight of each frame's prediction in the losses; a frame of weight 0 is input only.
            `train.code_cache.CodeCache` sets them so that each frame of the data counts equally.
    """

    codes: Tensor
    frame_valid: Tensor
    actions: Tensor
    rewards: Tensor
    terminations: Tensor
    truncations: Tensor
    status: Tensor
    weights: Tensor

    def to(self, device: torch.device | str) -> CodeClip:
        """The same clips on another device."""
        return CodeClip(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def select(self, index: slice) -> CodeClip:
        """Some of the clips."""
        return CodeClip(**{name: tensor[index] for name, tensor in vars(self).items()})
