"""What goes into a prior and comes out of it: the same for every prior, all of it explicit.

Shapes: B batch or rows, T frames in a clip, W frames of memory, h w code grid, A action size, V codes in
the book. Code V stands for "no frame": before the clip began, or where the environment gave no picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CodeClip:
    """A clip after the tokenizer. `actions[:, t]` takes frame t to frame t+1 and earns `rewards[:, t]`.

    Attributes:
        codes: (B, T, h, w) int64 in [0, V).
        frame_valid: (B, T) bool; what an invalid frame's codes and status say is never looked at.
        actions: (B, T-1) or (B, T-1, A), int64, or float32 for Box.
        rewards: (B, T-1) float32.
        terminations, truncations: (B, T-1) bool.
        status: (B, T) int64, the hidden variable's bin; any value where no status is learned.
        learned: (B, T) bool, the frames whose prediction is learned; the others are only looked at. See
            `train.cache.CodeCache`, which marks each frame of the data once.
    """

    codes: Tensor
    frame_valid: Tensor
    actions: Tensor
    rewards: Tensor
    terminations: Tensor
    truncations: Tensor
    status: Tensor
    learned: Tensor

    def to(self, device: torch.device | str) -> CodeClip:
        """The same clip on another device."""
        return CodeClip(**{name: tensor.to(device) for name, tensor in vars(self).items()})


@dataclass(frozen=True)
class PriorState:
    """All that a prior remembers of each row; copying it is branching.

    Attributes:
        codes: (B, W, h, w) int64, oldest first; V where there is no frame.
        actions: (B, W) or (B, W, A): the action that led to each of those frames.
        has_action: (B, W) bool; False takes the learned "no action".
        status: (B,) int64 in [0, bins], `bins` where it is not known.
    """

    codes: Tensor
    actions: Tensor
    has_action: Tensor
    status: Tensor

    @property
    def num_rows(self) -> int:
        """B."""
        return len(self.codes)

    def to(self, device: torch.device | str) -> PriorState:
        """The same state on another device."""
        return PriorState(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def rows(self, index: Tensor) -> PriorState:
        """The state of some rows: (n,) int64 -> n rows."""
        return PriorState(**{name: tensor[index] for name, tensor in vars(self).items()})

    def where(self, mask: Tensor, other: PriorState) -> PriorState:
        """`other`'s rows where the mask (B,) is True, these rows elsewhere."""
        mixed = {}
        for name, tensor in vars(self).items():
            chosen = mask.reshape(-1, *[1] * (tensor.ndim - 1))
            mixed[name] = torch.where(chosen, getattr(other, name), tensor)
        return PriorState(**mixed)


@dataclass(frozen=True)
class PriorStep:
    """One step of a dream, in the order in which it is drawn: end, status, codes, reward.

    Attributes:
        state: the state after the step.
        codes: (B, h, w) int64 of the new frame; of no meaning where `has_picture` is False.
        has_picture: (B,) bool; False where the row ended in a world whose ends have no picture.
        terminations: (B,) bool.
        hazards: (B,) float32, the probability of an end that was drawn from.
        rewards: (B,) float32.
        status: (B,) int64.
        log_probs: (B,) float32, nats of the drawn frame's codes at temperature 1; 0 without a picture.
    """

    state: PriorState
    codes: Tensor
    has_picture: Tensor
    terminations: Tensor
    hazards: Tensor
    rewards: Tensor
    status: Tensor
    log_probs: Tensor
