"""Training targets of a prior: every frame of a clip with the window of frames before it.

Shapes: B clips, T frames in a clip, N targets, W frames of context, h w code grid, A action size, V codes in the
codebook (code V: no frame).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from worldmodel.prior.code_clip import CodeClip
from worldmodel.prior.context import Context


@dataclass(frozen=True)
class Targets:
    """Frames to be predicted, each with its context. Leading axes are (B, T) or, flattened, (N,).

    Attributes:
        context: the W frames before each target; its last action leads to the target.
        codes: (..., h, w) int64 of the target, 0 where it is invalid.
        masked_codes: (..., h, w), the same with V where it is invalid: the input of the reward head.
        frame_valid: (...) bool.
        terminations: (...) bool, whether the step into the target terminated the episode.
        rewards: (...) float32, of that step.
        status: (...) int64 at the target, `bins` where not known.
        has_step: (...) bool, whether a step leads to the target (it is not the clip's first frame).
        has_end: (...) bool, whether `terminations` is known: the step was not truncated.
    """

    context: Context
    codes: Tensor
    masked_codes: Tensor
    frame_valid: Tensor
    terminations: Tensor
    rewards: Tensor
    status: Tensor
    has_step: Tensor
    has_end: Tensor

    def select(self, index: Tensor | slice) -> Targets:
        """The N targets where a mask (B, T) is True, as (N,); or a slice of the first axis."""
        context = Context(**{name: value[index] for name, value in vars(self.context).items()})
        fields = {name: value[index] for name, value in vars(self).items() if name != "context"}
        return Targets(context=context, **fields)

    def flatten(self) -> Targets:
        """All targets, (B, T) -> (B*T,)."""
        return self.select(torch.ones_like(self.frame_valid))

    def drop_history(self, share: float, no_frame: int, unknown: int) -> Targets:
        """Remove a random number of the oldest frames and actions, and the status, from a share of the contexts.

        This trains the prior for clips that begin inside an episode: (N,) -> (N,).

        Args:
            share: of the contexts, in expectation.
            no_frame: V.
            unknown: the status that means "not known".
        """
        context, device = self.context, self.codes.device
        count, window = context.has_action.shape
        is_dropped = torch.rand(count, device=device, dtype=torch.float32) < share
        num_kept = torch.randint(1, window + 1, (count,), device=device)  # frames
        num_kept = torch.where(is_dropped, num_kept, window + 1)
        age = torch.arange(window, 0, -1, device=device)[None]  # 1 for the newest frame and action
        codes = torch.where((age > num_kept[:, None])[:, :, None, None], no_frame, context.codes)
        has_action = context.has_action & (age <= num_kept[:, None])
        status = torch.where(is_dropped, unknown, context.status)
        return replace(self, context=Context(codes, context.actions, has_action, status))

    def corrupt_history(self, max_share: float, no_frame: int) -> Targets:
        """Replace some codes of the contexts by other targets': see `replace_codes`. (N,) -> (N,)."""
        codes = replace_codes(self.context.codes, max_share, no_frame)
        return replace(self, context=replace(self.context, codes=codes))


def replace_codes(codes: Tensor, max_share: float, no_frame: int) -> Tensor:
    """Replace random codes by those of the same place and time in another row of the batch.

    This trains a prior to continue from its own errors. Each row has its own share, uniform in [0, max_share].
    "No frame" is neither replaced nor inserted.

    Args:
        codes: (N, T, h, w) int64.
        max_share: of the codes.
        no_frame: V.
    """
    other = codes[torch.randperm(len(codes), device=codes.device)]
    share = max_share * torch.rand(len(codes), 1, 1, 1, device=codes.device, dtype=torch.float32)
    is_replaced = torch.rand(codes.shape, device=codes.device, dtype=torch.float32) < share
    is_replaced &= (codes != no_frame) & (other != no_frame)
    return torch.where(is_replaced, other, codes)


def make_targets(clip: CodeClip, window: int, num_codes: int, num_status: int) -> Targets:
    """Every frame of a clip as a target, with the W frames before it.

    Frames before the clip and invalid frames become "no frame" everywhere, so that an invalid frame's codes have no
    influence.

    Args:
        clip: B clips of T frames.
        window: W.
        num_codes: V.
        num_status: bins of the status; this number itself means "not known".

    Returns:
        Targets with leading axes (B, T).
    """
    batch, length = clip.frame_valid.shape
    device = clip.codes.device
    masked_codes = torch.where(clip.frame_valid[:, :, None, None], clip.codes, num_codes)  # (B, T, h, w)
    status = torch.where(clip.frame_valid, clip.status, num_status)
    if not num_status:
        status = torch.zeros_like(status)

    no_frames = torch.full_like(masked_codes[:, :1], num_codes).expand(-1, window, -1, -1)
    history = torch.cat([no_frames, masked_codes], 1).unfold(1, window, 1)[:, :length].movedim(-1, 2)  # (B, T, W, h, w)
    no_actions = torch.zeros((batch, window, *clip.actions.shape[2:]), dtype=clip.actions.dtype, device=device)
    actions = torch.cat([no_actions, clip.actions], 1).unfold(1, window, 1).movedim(-1, 2)  # (B, T, W, ...)
    index = torch.arange(length, device=device)
    has_action = index[:, None] - window + torch.arange(window, device=device)[None] >= 0  # (T, W)
    unknown = torch.full_like(status[:, :1], num_status)
    last_status = torch.cat([unknown, status[:, :-1]], 1)

    def of_frames(step_values: Tensor) -> Tensor:
        """Values of steps (B, T-1) at the frames that they lead to, zero at the first frame: (B, T)."""
        first = torch.zeros_like(clip.frame_valid[:, :1], dtype=step_values.dtype)
        return torch.cat([first, step_values], 1)

    return Targets(
        context=Context(history, actions, has_action.expand(batch, -1, -1), last_status),
        codes=torch.where(clip.frame_valid[:, :, None, None], clip.codes, 0),
        masked_codes=masked_codes,
        frame_valid=clip.frame_valid,
        terminations=of_frames(clip.terminations & ~clip.truncations),
        rewards=of_frames(clip.rewards),
        status=status,
        has_step=(index > 0).expand(batch, -1),
        has_end=of_frames(~clip.truncations),
    )
