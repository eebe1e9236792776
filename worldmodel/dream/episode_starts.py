"""Where the episodes of a dream begin: at one of the world's starts, or after frames that the caller gives.

Shapes: n rows to reset, W frames of context, h w code grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel.common.errors import UserError
from worldmodel.dream.simulator_state import check_integers
from worldmodel.prior.context import Context
from worldmodel.prior.sampling import STREAM_START, uniforms
from worldmodel.world.start_kinds import NO_START
from worldmodel.world.world_model import WorldModel


class EpisodeStarts:
    """The contexts that episodes begin from.

    Args:
        world: the world.
        kind: "episode" samples first frames of episodes, "any" also time steps inside episodes.

    Raises:
        UserError: an unknown kind, or a world without starts.
    """

    def __init__(self, world: WorldModel, kind: str) -> None:
        if world.starts is None or not len(world.starts):
            raise UserError("this world has no starts to dream from; load it with WorldModel.from_pretrained.")
        self._starts, self._num_codes = world.starts, world.prior.num_codes
        self._choices = world.starts.choices(kind)

    def placeholder(self, num_rows: int) -> Context:
        """A context of as many rows as wanted, for a state that nobody has reset yet."""
        zeros = torch.zeros(num_rows, dtype=torch.int64, device=self._choices.device)
        return self._starts.context.select(zeros)

    def sample(self, seeds: Tensor, episodes: Tensor) -> Tensor:
        """Sample a start for each row from its seed and episode number: (n,) and (n,) int64 -> (n,) int64."""
        uniform = uniforms(seeds, episodes, torch.zeros_like(seeds), 1, STREAM_START)[:, 0]
        return self._choices[(uniform * len(self._choices)).long()]

    def checked(self, starts: Tensor, index: Tensor) -> Tensor:
        """Starts that the caller chose for the rows `index`, (n,) int64, on the world's device.

        Raises:
            UserError: not integers, not one start per row, or a start that the world does not have.
        """
        check_integers("starts", starts)
        chosen = starts.to(index.device, torch.int64)
        if chosen.shape != index.shape:
            raise UserError(f"starts: got shape {tuple(chosen.shape)} for {len(index)} rows to reset.")
        if bool(((chosen < 0) | (chosen >= len(self._starts))).any()):
            raise UserError(f"start {chosen.tolist()}: this world has starts 0 to {len(self._starts) - 1}.")
        return chosen

    def context_of(self, starts: Tensor, context: Context | None) -> tuple[Context, Tensor]:
        """The context that n rows begin from.

        Args:
            starts: (n,) int64, the rows' starts.
            context: n rows of context to begin from instead, or None.

        Returns:
            The context on the world's device, and the starts, `NO_START` after a given context.

        Raises:
            UserError: a context of another number of rows or of another world's size, or one whose last frame is
                missing.
        """
        if context is None:
            return self._starts.context.select(starts), starts
        wanted = self._starts.context.codes.shape[1:]
        if len(context.status) != len(starts):
            raise UserError(f"context: got {len(context.status)} rows to reset {len(starts)}.")
        if context.codes.shape[1:] != wanted:
            raise UserError(
                f"context: got codes of shape {tuple(context.codes.shape[1:])} per row, this world has "
                f"{tuple(wanted)}; make it with this world's own `context`."
            )
        if bool((context.codes[:, -1] == self._num_codes).any()):
            raise UserError("context: its last frame is not valid; cut off what comes after the last valid frame.")
        return context.to(starts.device), torch.full_like(starts, NO_START)
