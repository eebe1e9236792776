"""Contexts from the training split that a dream can begin from without the dataset.

Shapes: S starts, W frames of context, h w code grid, A action size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldmodel.common.errors import UserError
from worldmodel.common.spaces import check_actions
from worldmodel.prior.context import Context
from worldmodel.prior.interface import Prior
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
        """Indices of the starts that a dream may sample.

        Args:
            kind: "episode" for episode starts (all starts if there is none), "any" for all.

        Returns:
            (n,) int64, n >= 1.
        """
        if kind not in ("episode", "any"):
            raise UserError(f"starts={kind!r}: wanted 'episode' or 'any'.")
        episode_starts = torch.nonzero(self.kinds == KIND_EPISODE)[:, 0]
        if kind == "any" or not len(episode_starts):
            return torch.arange(len(self), device=self.kinds.device)
        return episode_starts

    def thin(self, count: int) -> Starts:
        """At most `count` starts, evenly spaced among those of each kind, which keep their shares.

        Raises:
            UserError: fewer than 1.
        """
        if count < 1:
            raise UserError(f"starts={count}: wanted at least 1.")
        order = torch.argsort(self.kinds, stable=True)  # (S,)
        chosen = torch.linspace(0, len(self) - 1, min(count, len(self)), device=self.kinds.device).round().long()
        index = order[chosen].sort().values  # (n,)
        return Starts(self.context.select(index), self.kinds[index])

    def check(self, prior: Prior[Any], path: Path) -> None:
        """Refuse starts of another prior.

        Args:
            prior: the prior that dreams from them.
            path: the directory they were read from, for the error.

        Raises:
            UserError: a shape, code, status or action does not fit the prior.
        """
        context, space = self.context, prior.action_space
        count, shape = len(self.kinds), (len(self.kinds), prior.window)
        shapes = {
            "codes": (*shape, *prior.grid),
            "actions": (*shape, *space.shape),
            "has_action": shape,
            "status": (count,),
        }
        stored = {name: tuple(getattr(context, name).shape) for name in shapes}
        wrong = [name for name in shapes if stored[name] != shapes[name]]
        if wrong:
            name = wrong[0]
            raise UserError(
                f"{path}: the starts do not fit its config.json: {name} has shape {stored[name]}, wanted "
                f"{shapes[name]}. Copy the directory again."
            )
        bounds = (("codes", prior.num_codes), ("status", prior.status_config.num_bins))
        for name, highest in bounds:
            values = getattr(context, name).numpy()  # numpy, since torch would start its threads
            if count and not 0 <= int(values.min()) <= int(values.max()) <= highest:
                raise UserError(
                    f"{path}: the starts do not fit its config.json: {name} from {int(values.min())} to "
                    f"{int(values.max())}, wanted 0 to {highest}. Copy the directory again."
                )
        check_actions(space, context.actions.numpy()[context.has_action.numpy()], f"{path}: actions of the starts")

    def to(self, device: torch.device | str) -> Starts:
        """The same starts on another device."""
        return Starts(self.context.to(device), self.kinds.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are stored: codes as int32, the others unchanged."""
        fields = {name: value.contiguous() for name, value in vars(self.context).items()}
        return {**fields, "codes": fields["codes"].to(torch.int32), "kinds": self.kinds.contiguous()}

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor]) -> Starts:
        """The inverse of `tensors`."""
        kinds = tensors["kinds"]
        fields = {name: value for name, value in tensors.items() if name != "kinds"}
        return Starts(Context(**{**fields, "codes": fields["codes"].long()}), kinds)
