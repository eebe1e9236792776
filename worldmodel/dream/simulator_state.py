"""What a simulator remembers, and what its steps bring.

Shapes: N rows, H W pixels, h w code grid, L steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.common.errors import UserError
from worldmodel.dream.cuda_graphs import mapped
from worldmodel.prior.state_rows import StateRows


@dataclass(frozen=True)
class SimulatorState:
    """Everything a simulator remembers. A step or reset uses it up and may write to it: to branch, keep a `copy`.

    Attributes:
        prior: N rows of the prior's state.
        frames: (N, H, W, 3) uint8, the last frames shown.
        codes: (N, h, w) int64, what those frames were decoded from.
        seeds: (N,) int64, one a row.
        episodes: (N,) int64, resets of the row since it was seeded.
        steps: (N,) int64 since the last reset.
        ended: (N,) bool.
        starts: (N,) int64, the start each row began from; `NO_START` after a given context.
    """

    prior: StateRows
    frames: Tensor
    codes: Tensor
    seeds: Tensor
    episodes: Tensor
    steps: Tensor
    ended: Tensor
    starts: Tensor

    def copy(self) -> SimulatorState:
        """The same, out of reach of later steps."""
        return mapped(torch.clone, self)


def row_index(rows: Tensor | None, num_rows: int, device: torch.device) -> Tensor:
    """Rows, given as (n,) integers or as a mask (N,) bool, as (n,) int64 on a device; None is all of them.

    Raises:
        UserError: neither of the two, or a row that is not there (numbers on a GPU are not looked at).
    """
    if rows is None:
        return torch.arange(num_rows, device=device)
    if rows.dtype == torch.bool and rows.shape == (num_rows,):
        return torch.nonzero(rows)[:, 0].to(device)
    if rows.ndim != 1 or rows.dtype == torch.bool or rows.is_floating_point():
        raise UserError(
            f"rows: got {tuple(rows.shape)} {rows.dtype}, wanted their numbers, (n,) integers, or a mask, "
            f"({num_rows},) bool."
        )
    if rows.device.type == "cpu" and bool(((rows < 0) | (rows >= num_rows)).any()):
        raise UserError(f"rows {rows.tolist()}: this simulator has rows 0 to {num_rows - 1}.")
    return rows.to(device, torch.int64)


@dataclass(frozen=True)
class SimulatorStep:
    """What a step of N rows brought.

    Attributes:
        frames: (N, H, W, 3) uint8.
        codes: (N, h, w) int64, what those frames were decoded from.
        rewards: (N,) float32.
        terminations: (N,) bool.
        hazards: (N,) float32, the probability of the end that was drawn from.
        status: (N,) int64, the hidden variable's bin.
        status_values: (N,) float32, the variable in the middle of that bin; NaN where no status is learned.
        status_probs: (N, bins) float32, of the bins before one was drawn, given that the row goes on.
        log_probs: (N,) float32, nats of the frame drawn.
    """

    frames: Tensor
    codes: Tensor
    rewards: Tensor
    terminations: Tensor
    hazards: Tensor
    status: Tensor
    status_values: Tensor
    status_probs: Tensor
    log_probs: Tensor


@dataclass(frozen=True)
class Rollout:
    """N dreams of L steps.

    Attributes:
        frames: (N, L+1, H, W, 3) uint8, the frame each row began from first.
        rewards: (N, L) float32, 0 after the end.
        terminations: (N, L) bool, True from the end on.
        log_probs: (N, L) float32, nats of each frame drawn, 0 after the end.
    """

    frames: Tensor
    rewards: Tensor
    terminations: Tensor
    log_probs: Tensor
