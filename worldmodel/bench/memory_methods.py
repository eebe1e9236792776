"""Three methods to remember past frames when a flat prior dreams endlessly, on the same weights.

ring: what the prior does. The keys and values of the last W frames are kept as they were computed when those frames
were sampled.
recompute: before each frame the last W frames are read anew, as if nothing had been before them.
flush: keys and values are kept until there are W + 1 frames; then they are dropped and the last half window is read
anew.

This module applies them to whole steps of a prior (`step_baselines` to the codes alone, to measure their speed).

Shapes: B clips, R rows (dreams of a batch), T frames, h w code grid, W frames of memory, K = h*w codes per frame.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from worldmodel.prior import FlatPrior
from worldmodel.prior.code_clip import CodeClip
from worldmodel.prior.flat.flat_prior import FlatState
from worldmodel.prior.sampling import Sampling, uniforms

METHODS = ("ring", "recompute", "flush")


def refill_frames(window: int) -> int:
    """Frames that a flushed cache is refilled with: half a window."""
    return max(1, window // 2)


def flush_cycle(window: int) -> int:
    """Frames from one flush to the next."""
    return window + 1 - refill_frames(window)


def reading_spans(method: str, window: int, length: int) -> list[tuple[int, int, int]]:
    """The readings with which a method predicts the frames of a clip.

    Args:
        method: one of `METHODS`.
        window: W.
        length: T.

    Returns:
        (begin, first, end) for each reading: it reads frames begin to end - 1 and predicts those from first on.
    """
    if method == "ring":
        return [(0, 0, length)]
    spans = [(0, 0, window + 1)]
    if method == "recompute":
        return spans + [(t - window, t, t + 1) for t in range(window + 1, length)]
    refill, cycle = refill_frames(window), flush_cycle(window)
    return spans + [(t - refill, t, min(t + cycle, length)) for t in range(window + 1, length, cycle)]


def cut_clip(clip: CodeClip, begin: int, end: int) -> CodeClip:
    """Frames begin to end - 1 of each clip, and the steps between them."""
    steps = ("actions", "rewards", "terminations", "truncations")
    return CodeClip(**{name: x[:, begin : end - (name in steps)] for name, x in vars(clip).items()})


def nats_per_code(prior: FlatPrior, clip: CodeClip, method: str) -> Tensor:
    """Negative log-likelihood of each frame as a method predicts it, in nats per code: (B, T)."""
    spans = reading_spans(method, prior.memory, clip.frame_valid.shape[1])
    nats = [-prior.log_prob(cut_clip(clip, begin, end))[:, first - begin :] for begin, first, end in spans]
    return torch.cat(nats, 1) / math.prod(prior.grid)


class EndlessDreams:
    """R dreams without terminations, with one of the methods.

    Args:
        prior: whose memory is replaced.
        clip: R recorded clips; each dream begins at the first frame of its clip.
        method: one of `METHODS`.
        seed: row i has the uniform numbers of seed + i.

    Attributes:
        num_cached: frames in the cache, the last one included (of "flush").
    """

    def __init__(self, prior: FlatPrior, clip: CodeClip, method: str, seed: int) -> None:
        self.prior, self.method, self.num_cached, self.time = prior, method, 1, 0
        self.status = clip.status[:, 0]
        self.codes: list[Tensor] = [clip.codes[:, 0]]
        self.actions: list[Tensor] = []
        self.no_actions = clip.actions[:, :0]
        self.seeds = torch.arange(len(clip.codes)) + seed
        self.state = self._read(1)

    def _read(self, count: int) -> FlatState:
        """The state after reading the last frames, and nothing before them."""
        codes = torch.stack(self.codes[-count:], 1)  # (R, count, h, w)
        actions = torch.stack(self.actions[-count + 1 :], 1) if count > 1 else self.no_actions
        context = self.prior.context(codes, torch.ones(codes.shape[:2], dtype=torch.bool), actions, self.status)
        return self.prior.init_state(context)

    def step(self, actions: Tensor) -> Tensor:
        """Take one step in every row: codes (R, h, w)."""
        window = self.prior.memory
        if self.method == "recompute":
            self.state = self._read(min(window, len(self.codes)))
        elif self.method == "flush" and self.num_cached == window + 1:
            self.num_cached = refill_frames(window)
            self.state = self._read(self.num_cached)
        resets = torch.zeros_like(self.seeds)
        numbers = uniforms(self.seeds, resets, resets + self.time, self.prior.num_uniforms)
        numbers[:, 0] = 1.0  # above every hazard: no termination
        out = self.prior.step(self.state, actions, numbers, Sampling())
        self.state, self.status = out.state, out.status
        self.codes, self.actions = [*self.codes, out.codes][-window - 1 :], [*self.actions, actions][-window - 1 :]
        self.num_cached, self.time = self.num_cached + 1, self.time + 1
        return out.codes
