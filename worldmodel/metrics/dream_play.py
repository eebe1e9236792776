"""Whole dreams in which a policy acts: their returns, and what the policy visited.

Shapes: R rows (dreams), S steps, H W pixels, h w code grid, A action size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldmodel.common.errors import UserError
from worldmodel.dream.simulator import Simulator
from worldmodel.metrics.dream_rollouts import BACKEND, COMPACT_BELOW, select_rows
from worldmodel.metrics.evaluation_run import PolicyFactory
from worldmodel.prior.sampling import Sampling
from worldmodel.world.world_model import WorldModel


@dataclass(frozen=True)
class DreamPlay:
    """What happened in R dreams of at most S steps. Entries after the end of a dream are 0.

    Attributes:
        returns: (R,) float64, sums of the dream's rewards, in units of the environment.
        lengths: (R,) int64, steps until the termination or the limit.
        terminated: (R,) bool, the last step terminated the dream.
        codes: (R, S+1, h, w) int64, of the start and of the frame after each step.
        status: (R, S+1) int64, bin of the hidden variable.
        actions: (R, S) or (R, S, A).
    """

    returns: np.ndarray
    lengths: np.ndarray
    terminated: np.ndarray
    codes: Tensor
    status: Tensor
    actions: Tensor

    @staticmethod
    def zeros(world: WorldModel, num_dreams: int) -> DreamPlay:
        """Dreams of a world before their first step."""
        steps, space = episode_steps(world), world.spec.action_space
        dtype = torch.float32 if space.dtype.kind == "f" else torch.int64
        return DreamPlay(
            np.zeros(num_dreams),
            np.zeros(num_dreams, np.int64),
            np.zeros(num_dreams, bool),
            torch.zeros((num_dreams, steps + 1, *world.tokenizer.grid), dtype=torch.int64),
            torch.zeros((num_dreams, steps + 1), dtype=torch.int64),
            torch.zeros((num_dreams, steps, *space.shape), dtype=dtype),
        )


def episode_steps(world: WorldModel) -> int:
    """Steps after which an episode is truncated, in the environment and in a dream of it.

    Raises:
        UserError: the environment has no limit, or the prior knows fewer frames than an episode has.
    """
    steps, max_frames = world.spec.max_steps, world.prior.max_frames
    if steps is None:
        raise UserError(
            f"{world.spec.env} was recorded without a limit of steps, so a dream might never end; record it with "
            "--max-steps."
        )
    if max_frames is not None and max_frames <= steps:
        raise UserError(
            f"an episode of {world.spec.env} has up to {steps} steps, but this world's prior spans {max_frames} "
            "frames, so its dreams cannot be compared with whole episodes."
        )
    return steps


def begin_episodes(world: WorldModel, seeds: Tensor, sampling: Sampling) -> Simulator:
    """A simulator whose rows, one per seed, begin at the world's own starts of episodes."""
    simulator = Simulator(world, len(seeds), sampling=sampling, backend=BACKEND)
    simulator.seed(seeds)
    simulator.reset()
    return simulator


@torch.no_grad()
def play_dreams(
    world: WorldModel,
    policy: PolicyFactory,
    num_dreams: int,
    seed: int = 0,
    sampling: Sampling = Sampling(exact=False),  # noqa: B008 (frozen)
) -> DreamPlay:
    """Play a policy in whole dreams, all in one batch, with the environment's limit of steps.

    Args:
        world: the learned world.
        policy: makes the policy.
        num_dreams: R.
        seed: of the policy; row i dreams with seed + i and begins at the start that this seed samples.
        sampling: how codes are sampled.

    Raises:
        UserError: see `episode_steps`.
    """
    played = DreamPlay.zeros(world, num_dreams)
    simulator = begin_episodes(world, torch.arange(num_dreams) + seed, sampling)
    act = policy(seed, num_dreams)
    rows = np.arange(num_dreams)  # of all rows, those that the simulator holds
    running = np.ones(num_dreams, bool)  # of the simulator's rows
    observations = simulator.state.frames.cpu().numpy().copy()  # of all rows, also of those that ended
    played.codes[:, 0], played.status[:, 0] = simulator.state.codes.cpu(), simulator.state.prior.status.cpu()
    for t in range(played.actions.shape[1]):
        actions = torch.as_tensor(np.asarray(act(observations)))  # (R,) or (R, A)
        step = simulator.step(actions[rows])
        active = rows[running]
        played.returns[active] += step.rewards.cpu().numpy()[running]
        played.lengths[active] += 1
        played.terminated[active] = step.terminations.cpu().numpy()[running]
        played.codes[active, t + 1] = step.codes.cpu()[running]
        played.status[active, t + 1] = step.status.cpu()[running]
        played.actions[active, t] = actions[active].to(played.actions.dtype)
        observations[rows] = step.frames.cpu().numpy()
        running &= ~played.terminated[rows]
        if not running.any():
            break
        if running.mean() <= COMPACT_BELOW:
            index = np.flatnonzero(running)
            simulator = select_rows(simulator, torch.from_numpy(index).to(world.device))
            rows, running = rows[index], running[index]
    return played
