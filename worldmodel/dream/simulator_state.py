"""The state of a simulator and the results of its steps.

Shapes: N rows, n some of them, H W pixels, h w code grid, L steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.common.errors import UserError
from worldmodel.dream.tensor_tree import tree_leaves, tree_map
from worldmodel.prior.state_rows import StateRows
from worldmodel.tokenizer import StreamState


@dataclass(frozen=True)
class SimulatorState:
    """The whole state of a simulator. A step or reset may write to its tensors: to branch, keep a `copy`.

    Attributes:
        prior: N rows of the prior's state.
        frames: (N, H, W, 3) uint8, the last frames.
        codes: (N, h, w) int64, the codes from which those frames were decoded.
        seeds: (N,) int64, one per row.
        episodes: (N,) int64, resets of the row since it was seeded.
        steps: (N,) int64 since the last reset.
        ended: (N,) bool.
        starts: (N,) int64, the start each row began from; `NO_START` after a given context.
        decoder: N rows of the decoder's state after those frames; None for a tokenizer of single frames.
    """

    prior: StateRows
    frames: Tensor
    codes: Tensor
    seeds: Tensor
    episodes: Tensor
    steps: Tensor
    ended: Tensor
    starts: Tensor
    decoder: StreamState | None = None

    @staticmethod
    def ended_rows(
        prior: StateRows, decoder: StreamState | None, frame_shape: tuple[int, int, int], grid: tuple[int, int]
    ) -> SimulatorState:
        """The state before the first reset: black frames of rows that have ended."""
        zeros = torch.zeros_like(prior.status)
        return SimulatorState(
            prior=prior,
            frames=zeros.new_zeros((len(zeros), *frame_shape), dtype=torch.uint8),
            codes=zeros.new_zeros((len(zeros), *grid)),
            seeds=zeros,
            episodes=zeros,
            steps=zeros,
            ended=torch.ones_like(zeros, dtype=torch.bool),
            starts=zeros,
            decoder=decoder,
        )

    def copy(self) -> SimulatorState:
        """A state with its own tensors, which later steps do not change."""
        return tree_map(torch.clone, self)

    def select(self, index: Tensor) -> SimulatorState:
        """Some rows: (n,) int64 -> n rows."""
        return tree_map(lambda rows: rows[index], self)

    @property
    def layout(self) -> str:
        """For error messages: the kind of the prior's state, and the shapes of one row's tensors."""
        shapes = ", ".join(
            str(tuple(leaf.shape[1:])) for leaf in [*tree_leaves(self.prior), *tree_leaves(self.decoder), self.frames]
        )
        return f"{type(self.prior).__name__} ({shapes})"


def check_integers(name: str, values: Tensor) -> None:
    """Refuse a tensor of another dtype than integers.

    Raises:
        UserError: floats or bools.
    """
    if values.is_floating_point() or values.dtype == torch.bool:
        raise UserError(f"{name}: got {values.dtype}, wanted integers.")


def row_index(rows: Tensor | None, num_rows: int, device: torch.device) -> Tensor:
    """Rows as (n,) int64 on a device.

    Args:
        rows: (n,) integers, or a mask (N,) bool; None selects all rows.
        num_rows: N.
        device: of the result.

    Raises:
        UserError: neither of the two, or a row out of range (values on a GPU are not checked).
    """
    if rows is None:
        return torch.arange(num_rows, device=device)
    if rows.dtype == torch.bool and rows.shape == (num_rows,):
        return torch.nonzero(rows)[:, 0].to(device)
    if rows.ndim != 1 or rows.dtype == torch.bool or rows.is_floating_point():
        raise UserError(
            f"rows: got {tuple(rows.shape)} {rows.dtype}, wanted row numbers, (n,) integers, or a mask, "
            f"({num_rows},) bool."
        )
    if rows.device.type == "cpu" and bool(((rows < 0) | (rows >= num_rows)).any()):
        raise UserError(f"rows {rows.tolist()}: this simulator has rows 0 to {num_rows - 1}.")
    return rows.to(device, torch.int64)


@dataclass(frozen=True)
class SimulatorStep:
    """The result of one step of N rows.

    Attributes:
        frames: (N, H, W, 3) uint8.
        codes: (N, h, w) int64, the codes from which those frames were decoded.
        rewards: (N,) float32.
        terminations: (N,) bool.
        hazards: (N,) float32, the probability with which the termination was sampled.
        status: (N,) int64, the hidden variable's bin.
        status_values: (N,) float32, the middle of that bin; NaN where no status is learned.
        status_probs: (N, bins) float32, from which the bin was sampled, given that the row goes on.
        log_probs: (N,) float32, log-likelihood of the sampled frame in nats.
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
        frames: (N, L+1, H, W, 3) uint8; the first is the frame that each row began from.
        rewards: (N, L) float32, 0 after the end.
        terminations: (N, L) bool, True from the end on.
        log_probs: (N, L) float32, log-likelihood of each sampled frame in nats, 0 after the end.
    """

    frames: Tensor
    rewards: Tensor
    terminations: Tensor
    log_probs: Tensor

    @staticmethod
    def stack(first_frames: Tensor, steps: list[SimulatorStep]) -> Rollout:
        """The rollout of L >= 0 steps that began at some frames (N, H, W, 3)."""
        empty = torch.zeros((len(first_frames), 0), dtype=torch.float32, device=first_frames.device)

        def over_time(name: str) -> Tensor:
            return torch.stack([getattr(step, name) for step in steps], 1) if steps else empty

        frames = torch.stack([first_frames, *(step.frames for step in steps)], 1)
        return Rollout(frames, over_time("rewards"), over_time("terminations").bool(), over_time("log_probs"))
