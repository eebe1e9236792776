"""Moments of the training split from which a dream can begin, without the dataset.

Shapes: S starts, W frames of memory, h w code grid, A action size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.common.errors import UserError
from worldmodel.prior.context import Context
from worldmodel.world.start_kinds import KIND_EPISODE, KIND_INSIDE

__all__ = ["KIND_EPISODE", "KIND_INSIDE", "Starts"]


@dataclass(frozen=True)
class Starts:
    """Contexts to begin from.

    Attributes:
        context: S rows.
        kinds: (S,) int64, `KIND_EPISODE` or `KIND_INSIDE`.
    """

    context: Context
    kinds: Tensor

    def __len__(self) -> int:
        return len(self.kinds)

    def choices(self, kind: str = "episode") -> Tensor:
        """Indices that a dream draws its start from.

        Args:
            kind: "episode" for true episode starts (all starts if there is none), "any" for all.

        Returns:
            (n,) int64, n >= 1.
        """
        if kind not in ("episode", "any"):
            raise UserError(f"starts={kind!r}: wanted 'episode' or 'any'.")
        true_starts = torch.nonzero(self.kinds == KIND_EPISODE)[:, 0]
        if kind == "any" or not len(true_starts):
            return torch.arange(len(self), device=self.kinds.device)
        return true_starts

    def to(self, device: torch.device | str) -> Starts:
        """The same starts on another device."""
        return Starts(self.context.to(device), self.kinds.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """What is written to disk: codes as int32, the rest as it is."""
        fields = {name: value.contiguous() for name, value in vars(self.context).items()}
        return {**fields, "codes": fields["codes"].to(torch.int32), "kinds": self.kinds.contiguous()}

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor]) -> Starts:
        """The inverse of `tensors`."""
        kinds = tensors["kinds"]
        fields = {name: value for name, value in tensors.items() if name != "kinds"}
        return Starts(Context(**{**fields, "codes": fields["codes"].long()}), kinds)
