"""Options for sampling codes from logits; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from worldmodel.common.errors import UserError


@dataclass(frozen=True)
class SamplingOptions:
    """Options for sampling codes, applied in this order.

    Attributes:
        temperature: divides the logits, >= 0; 0 takes the most likely code.
        top_k: sample from the k most likely codes only; 0 keeps all.
        top_p: sample from the most likely codes whose probabilities sum to `top_p`, in (0, 1]; 1 keeps all.

    Raises:
        UserError: a value out of its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise UserError(f"temperature={self.temperature}: wanted 0 or more.")
        if self.top_k < 0:
            raise UserError(f"top_k={self.top_k}: wanted a number of codes, or 0 for all.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p}: wanted a probability above 0, at most 1.")
