"""The modules of an export that do not depend on the kind of its prior; each becomes one ONNX file.

Shapes: B rows, h w code grid, H W pixels, D width, V codes in the codebook.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from worldmodel.prior.interface import Prior
from worldmodel.tokenizer import Tokenizer


class Reward(nn.Module):
    """The reward of a step, in the environment's units."""

    def __init__(self, prior: Prior[Any]) -> None:
        super().__init__()
        self.heads = prior.heads

    def forward(self, summary: Tensor, terminations: Tensor, codes: Tensor) -> Tensor:
        """(B, D), (B,) bool, (B, h, w) int64 with V where the step has no frame -> (B,)."""
        return self.heads.unstandardise_rewards(self.heads.predict_rewards(summary, terminations, codes))


class Decoder(nn.Module):
    """The tokenizer's decoder: codes to pixels."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, codes: Tensor) -> Tensor:
        """(B, h, w) int64 -> (B, H, W, 3) uint8."""
        return self.tokenizer.decode_units(codes)
