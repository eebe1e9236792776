"""Clips cut into what a prior with W frames of memory learns from: a window and the frame that follows.

Shapes: B clips, T frames in a clip, N targets, W frames of memory, h w code grid, A action size, V codes in
the book (code V: no frame).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from worldmodel.prior.interface import CodeClip, Context


@dataclass(frozen=True)
class Targets:
    """Frames to be predicted, each with the window before it. Leading axes are (B, T) or, flat, (N,).

    Attributes:
        state: the window; its last action is the one that leads to the target.
        codes: (..., h, w) int64 of the target, 0 where it is invalid.
        pictures: (..., h, w) the same with V where it is invalid: what the reward may look at.
        frame_valid: (...) bool.
        terminations: (...) bool, the step ended the episode.
        rewards: (...) float32.
        status: (...) int64 at the target, `bins` where not known.
        has_step: (...) bool, a step led here (not the clip's first frame).
        has_end: (...) bool, the step says whether the task ends: it was not cut off.
    """

    state: Context
    codes: Tensor
    pictures: Tensor
    frame_valid: Tensor
    terminations: Tensor
    rewards: Tensor
    status: Tensor
    has_step: Tensor
    has_end: Tensor

    def take(self, mask: Tensor | slice) -> Targets:
        """Those marked True, (B, T) bool: (B, T) -> (N,), N of them; or a slice of the first axis."""
        state = Context(**{name: value[mask] for name, value in vars(self.state).items()})
        fields = {name: value[mask] for name, value in vars(self).items() if name != "state"}
        return Targets(state=state, **fields)

    def flat(self) -> Targets:
        """All of them, (B, T) -> (B*T,)."""
        return self.take(torch.ones_like(self.frame_valid))

    def forgetful(self, share: float, no_frame: int, unknown: int) -> Targets:
        """A share of the windows loses a random number of its oldest frames and actions, and its status.

        Clips that begin inside an episode are so learned too: (N,) -> (N,).

        Args:
            share: of the windows.
            no_frame: V.
            unknown: the status that stands for "not known".
        """
        state, device = self.state, self.codes.device
        count, window = state.has_action.shape
        forgets = torch.rand(count, device=device) < share
        kept = torch.randint(1, window + 1, (count,), device=device)  # frames that stay
        kept = torch.where(forgets, kept, window + 1)
        age = torch.arange(window, 0, -1, device=device)[None]  # 1 for the newest frame and action
        codes = torch.where((age > kept[:, None])[:, :, None, None], no_frame, state.codes)
        has_action = state.has_action & (age <= kept[:, None])
        status = torch.where(forgets, unknown, state.status)
        return replace(self, state=Context(codes, state.actions, has_action, status))

    def noisy(self, share: float, no_frame: int) -> Targets:
        """Replace up to `share` of the history's codes by the same place's of another target.

        Each window draws its own share, uniform from 0. "No frame" is neither replaced nor given.
        """
        codes = self.state.codes  # (N, W, h, w)
        other = codes[torch.randperm(len(codes), device=codes.device)]
        rate = share * torch.rand(len(codes), 1, 1, 1, device=codes.device)
        replaced = torch.rand(codes.shape, device=codes.device) < rate
        replaced &= (codes != no_frame) & (other != no_frame)
        return replace(self, state=replace(self.state, codes=torch.where(replaced, other, codes)))


def cut_targets(clip: CodeClip, window: int, num_codes: int, num_status: int) -> Targets:
    """Every frame of a clip as a target, with the W frames before it.

    Frames before the clip and invalid ones become "no frame" everywhere at once, so that nothing can see
    what an invalid frame holds.

    Args:
        clip: B clips of T frames.
        window: W.
        num_codes: V.
        num_status: bins of the status; that number itself stands for "not known".

    Returns:
        Targets with leading axes (B, T).
    """
    batch, length = clip.frame_valid.shape
    device = clip.codes.device
    pictures = torch.where(clip.frame_valid[:, :, None, None], clip.codes, num_codes)  # (B, T, h, w)
    status = torch.where(clip.frame_valid, clip.status, num_status)
    if not num_status:
        status = torch.zeros_like(status)

    blank = torch.full_like(pictures[:, :1], num_codes).expand(-1, window, -1, -1)
    history = torch.cat([blank, pictures], 1).unfold(1, window, 1)[:, :length].movedim(-1, 2)  # (B, T, W, h, w)
    still = torch.zeros((batch, window, *clip.actions.shape[2:]), dtype=clip.actions.dtype, device=device)
    actions = torch.cat([still, clip.actions], 1).unfold(1, window, 1).movedim(-1, 2)  # (B, T, W, ...)
    index = torch.arange(length, device=device)
    known = index[:, None] - window + torch.arange(window, device=device)[None] >= 0  # (T, W)
    unknown = torch.full_like(status[:, :1], num_status)
    state = Context(history, actions, known.expand(batch, -1, -1), torch.cat([unknown, status[:, :-1]], 1))

    def after_first(values: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(clip.frame_valid[:, :1], dtype=values.dtype), values], 1)

    ended = clip.terminations & ~clip.truncations
    return Targets(
        state=state,
        codes=torch.where(clip.frame_valid[:, :, None, None], clip.codes, 0),
        pictures=pictures,
        frame_valid=clip.frame_valid,
        terminations=after_first(ended),
        rewards=after_first(clip.rewards),
        status=status,
        has_step=(index > 0).expand(batch, -1),
        has_end=after_first(~clip.truncations),
    )
