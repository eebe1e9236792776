"""Dreams that begin from recorded frames, many at once.

Shapes: R rows, T frames of context, h w code grid, A action size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from worldmodel.dream.simulator import Simulator
from worldmodel.prior.code_clip import CodeClip
from worldmodel.prior.sampling import Sampling
from worldmodel.world.world_model import WorldModel

BACKEND = "torch"  # so that a result does not depend on whether the world's directory holds an ONNX export
# Share of running dreams at which a simulator is rebuilt without those that have ended, which cost as much.
COMPACT_BELOW = 0.75


def begin_dreams(world: WorldModel, clip: CodeClip, num_frames: int, seeds: Tensor, sampling: Sampling) -> Simulator:
    """A simulator whose rows begin after the first frames of recorded clips. It computes no exact `log_probs`.

    Args:
        world: the learned world.
        clip: R clips.
        num_frames: T, frames of context; the last of them must be valid.
        seeds: (R,) int64, seeds of the dreams.
        sampling: how codes are sampled.
    """
    prior, rows = world.prior, len(clip.codes)
    context = prior.context(
        clip.codes[:, :num_frames],
        clip.frame_valid[:, :num_frames],
        clip.actions[:, : num_frames - 1],
        clip.status[:, num_frames - 1],
    )
    simulator = Simulator(world, rows, sampling=replace(sampling, exact=False), backend=BACKEND)
    simulator.seed(seeds)
    simulator.reset(context=context)
    return simulator


def select_rows(simulator: Simulator, rows: Tensor) -> Simulator:
    """A simulator of some of the rows, (n,) int64, which continue as they would have."""
    selected = Simulator(simulator.world, len(rows), sampling=simulator.sampling, backend=BACKEND)
    selected.restore(simulator.state.select(rows))
    return selected


@dataclass(frozen=True)
class Dreams:
    """Frames of dreams that began from recorded clips.

    Attributes:
        frames: (R, n, H, W, 3) uint8 on the CPU. A dream that terminates early repeats its last frame.
        ended: (R, n) bool on the CPU, the dream terminated at this step or before.
    """

    frames: Tensor
    ended: Tensor

    def select(self, rows: slice) -> Dreams:
        """Some of the rows."""
        return Dreams(self.frames[rows], self.ended[rows])

    @staticmethod
    def concatenate(dreams: Sequence[Dreams]) -> Dreams:
        """The rows of all, one after another."""
        return Dreams(torch.cat([d.frames for d in dreams]), torch.cat([d.ended for d in dreams]))


@torch.no_grad()
def dream_clips(
    world: WorldModel, clip: CodeClip, actions: Tensor, num_frames: int, seeds: Tensor, sampling: Sampling
) -> Dreams:
    """Dream n frames after a context of `num_frames` frames, for actions (R, n) or (R, n, A)."""
    simulator = begin_dreams(world, clip, num_frames, seeds, sampling)
    frames, ended = [], []
    for t in range(actions.shape[1]):
        frames.append(simulator.step(actions[:, t]).frames.cpu())
        ended.append(simulator.state.ended.cpu())
    return Dreams(torch.stack(frames, 1), torch.stack(ended, 1))
