"""The context: the last frames and actions of each row, from which any prior can start.

Shapes: B rows, T frames, W frames of context, h w code grid, A action size, V codes in the codebook (code V: no
frame).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.prior.state_rows import StateRows


@dataclass(frozen=True)
class Context(StateRows):
    """The last W frames of each row. It is also the whole state of a factored prior.

    Attributes:
        codes: (B, W, h, w) int64, oldest first; V where there is no frame.
        actions: (B, W) or (B, W, A), the action that led to each of those frames.
        has_action: (B, W) bool; False selects the learned "no action".
        status: (B,) int64 in [0, bins], at the last frame; `bins` means not known.
    """

    codes: Tensor
    actions: Tensor
    has_action: Tensor
    status: Tensor

    @staticmethod
    def from_frames(
        codes: Tensor, frame_valid: Tensor, actions: Tensor, status: Tensor, window: int, num_codes: int
    ) -> Context:
        """The context after a sequence of real frames; only the last W of them matter.

        Args:
            codes: (B, T, h, w) int64, T >= 1.
            frame_valid: (B, T) bool.
            actions: (B, T-1) or (B, T-1, A), those that led to frames 1 to T-1.
            status: (B,) int64 at the last frame, in [0, bins]; `bins` means not known.
            window: W.
            num_codes: V.
        """
        codes = torch.where(frame_valid[:, :, None, None], codes, num_codes)
        no_frames = torch.full_like(codes[:, :1], num_codes).expand(-1, window, -1, -1)
        no_actions = torch.zeros((len(codes), window, *actions.shape[2:]), dtype=actions.dtype, device=actions.device)
        has_action = torch.arange(window + actions.shape[1], device=codes.device) >= window
        return Context(
            torch.cat([no_frames, codes], 1)[:, -window:],
            torch.cat([no_actions, actions], 1)[:, -window:],
            has_action[-window:].expand(len(codes), -1),
            status,
        )

    def append_action(self, actions: Tensor) -> Context:
        """These frames, with a window of actions that ends with those of the coming step: (B,) or (B, A)."""
        has_action = torch.cat([self.has_action[:, 1:], torch.ones_like(self.has_action[:, :1])], 1)
        return Context(self.codes, torch.cat([self.actions[:, 1:], actions[:, None]], 1), has_action, self.status)

    def append_frame(self, codes: Tensor, status: Tensor) -> Context:
        """The window that ends with the frame to which the last action led: (B, h, w) and (B,)."""
        return Context(torch.cat([self.codes[:, 1:], codes[:, None]], 1), self.actions, self.has_action, status)
