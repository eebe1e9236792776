"""Real clips beside dreamed ones: the same start, then the real actions or other ones.

Shapes: L frames, H W pixels, W frames of memory, N rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from worldmodel.common.errors import UserError
from worldmodel.data import Dataset
from worldmodel.dream.simulator import Simulator
from worldmodel.prior.sampling import Sampling
from worldmodel.world.world_model import WorldModel


@dataclass(frozen=True)
class ClipComparison:
    """Frames to lay beside each other, each (L, H, W, 3) uint8; `ended` is the dream's last step, if it ended."""

    real: np.ndarray
    reconstructed: np.ndarray
    dreamed: np.ndarray
    actions: np.ndarray
    ended: int | None


def reset_to_episode(simulator: Simulator, data: Dataset, number: int, moment: int) -> None:
    """Put all rows of a simulator at a moment of a recorded episode, with the frames before it as context.

    Args:
        simulator: N rows; each keeps its own seed.
        data: where the episode is.
        number: of the episode.
        moment: the frame that is shown now, 0 .. T.

    Raises:
        UserError: there is no such frame, or it is not the environment's own.
    """
    world, prior = simulator.world, simulator.world.prior
    episode = data.episode(number)
    if not 0 <= moment <= episode.length or not episode.frame_valid[moment]:
        raise UserError(f"episode {number} has no valid frame {moment}; it has {episode.length + 1} frames.")
    first = max(0, moment - prior.window + 1)
    span = slice(first, moment + 1)
    rows = simulator.num_rows
    settings = prior.status_config
    status = np.zeros(1, np.int64)
    if settings.variable:
        status = np.digitize(episode.variables[settings.variable][moment : moment + 1], np.asarray(settings.edges))
    context = world.context(
        torch.from_numpy(episode.frames[span])[None],
        torch.from_numpy(episode.actions[first:moment])[None],
        torch.from_numpy(episode.frame_valid[span])[None],
        torch.from_numpy(status.astype(np.int64)),
    )
    simulator.reset(context=context.select(torch.zeros(rows, dtype=torch.int64, device=world.device)))


def compare_clip(
    world: WorldModel,
    data: Dataset,
    number: int,
    moment: int,
    length: int,
    actions: Any = None,
    seed: int = 0,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
) -> ClipComparison:
    """A recorded clip, its reconstruction, and what the world dreams from its first frame on.

    Args:
        world: the learned world.
        data: where the episode is.
        number: of the episode.
        moment: its first frame shown.
        length: L.
        actions: (L-1,) or (L-1, A) to dream with; the recorded ones if not given.
        seed: of the dream.
        sampling: how the frames' codes are drawn.

    Raises:
        UserError: the episode is too short.
    """
    episode = data.episode(number)
    if moment + length > episode.length + 1:
        raise UserError(
            f"a clip of {length} frames from frame {moment} does not fit into episode {number} of "
            f"{episode.length + 1} frames."
        )
    span = slice(moment, moment + length)
    real = episode.frames[span]
    made = world.tokenizer.decode(world.tokenizer.encode(torch.from_numpy(real)[None].to(world.device)))[0]
    taken = episode.actions[moment : moment + length - 1] if actions is None else np.asarray(actions)
    simulator = Simulator(world, 1, seed=seed, sampling=sampling)
    reset_to_episode(simulator, data, number, moment)
    frames, ended = [simulator.state.frames[0].cpu().numpy()], None
    for t, action in enumerate(taken):
        step = simulator.step(torch.as_tensor(np.asarray(action))[None])
        frames.append(step.frames[0].cpu().numpy())
        if ended is None and bool(step.terminations[0]):
            ended = t + 1
    return ClipComparison(real, made.cpu().numpy(), np.stack(frames), taken, ended)


def draw_clips(
    world: WorldModel, data: Dataset, episodes: np.ndarray, starts: np.ndarray, length: int, seed: int
) -> np.ndarray:
    """Recorded clips, each above what is dreamed from its first frame with the same actions.

    Training takes this function as its `draw_dreams`, since it imports nothing of this package.

    Args:
        world: the learned world.
        data: where the episodes are.
        episodes, starts: (n,) int64.
        length: L.
        seed: of the dreams.

    Returns:
        (2n*H, L*W, 3) uint8.
    """
    rows = []
    for number, start in zip(episodes, starts, strict=True):
        pair = compare_clip(world, data, int(number), int(start), length, seed=seed)
        rows += [np.concatenate(list(frames), axis=1) for frames in (pair.real, pair.dreamed)]
    return np.concatenate(rows, axis=0)
