"""Dreams that begin from recorded frames: many at once, each from its own.

Shapes: R rows, T frames of context, h w code grid, A action size.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from worldmodel.dream.simulator import Simulator
from worldmodel.dream.simulator_state import SimulatorState
from worldmodel.prior.code_clip import CodeClip
from worldmodel.prior.sampling import Sampling
from worldmodel.world.world_model import WorldModel

BACKEND = "torch"  # a judgement does not depend on whether the world's directory carries an export


def begin(world: WorldModel, clip: CodeClip, num_frames: int, seeds: Tensor, sampling: Sampling) -> Simulator:
    """A simulator whose rows have just seen the first frames of recorded clips; nobody asks for exact `log_probs`.

    Args:
        world: the learned world.
        clip: R clips.
        num_frames: T, frames that are seen; the last of them must be valid.
        seeds: (R,) int64, of the dreams.
        sampling: how the frames' codes are drawn.
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


def narrowed(simulator: Simulator, rows: Tensor) -> Simulator:
    """A simulator of some of the rows, (n,) int64, that go on as they would have."""
    state = simulator.state
    fields = {name: value[rows] for name, value in vars(state).items() if name != "prior"}
    fewer = Simulator(simulator.world, len(rows), sampling=simulator.sampling, backend=BACKEND)
    fewer.restore(SimulatorState(prior=state.prior.select(rows), **fields))
    return fewer


@torch.no_grad()
def predict(
    world: WorldModel, clip: CodeClip, actions: Tensor, num_frames: int, seeds: Tensor, sampling: Sampling
) -> Tensor:
    """Frames dreamed after a context: (R, n, H, W, 3) uint8 on the CPU for actions (R, n) or (R, n, A).

    A dream that ends early shows its last frame from then on.
    """
    simulator = begin(world, clip, num_frames, seeds, sampling)
    return torch.stack([simulator.step(actions[:, t]).frames.cpu() for t in range(actions.shape[1])], 1)
