"""Recorded clips compared with dreamed ones: the same start, then the recorded actions or other ones.

Shapes: L frames, H W pixels, A action size, N rows.
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
from worldmodel.prior.status_bins import status_bins
from worldmodel.world.world_model import WorldModel


@dataclass(frozen=True)
class ClipComparison:
    """A recorded clip and its dream.

    Attributes:
        real: (L, H, W, 3) uint8, the recorded frames.
        reconstructed: (L, H, W, 3) uint8, those frames encoded and decoded by the tokenizer.
        dreamed: (L, H, W, 3) uint8, the frames dreamed from the first frame on.
        actions: (L-1,) or (L-1, A), the actions of the dream.
        end_step: the dream's last step, None if it did not end.
    """

    real: np.ndarray
    reconstructed: np.ndarray
    dreamed: np.ndarray
    actions: np.ndarray
    end_step: int | None


def reset_to_episode(simulator: Simulator, data: Dataset, episode_index: int, frame_index: int) -> None:
    """Reset all rows of a simulator to a frame of a recorded episode, with the frames before it as context.

    Args:
        simulator: N rows; each keeps its own seed.
        data: the dataset of the episode.
        episode_index: the episode's number.
        frame_index: the frame that is shown after the reset, 0 .. T.

    Raises:
        UserError: there is no such frame, or it is not valid.
    """
    world, prior = simulator.world, simulator.world.prior
    episode = data.episode(episode_index)
    if not 0 <= frame_index <= episode.length or not episode.frame_valid[frame_index]:
        raise UserError(
            f"episode {episode_index} has no valid frame {frame_index}; it has {episode.length + 1} frames."
        )
    first = max(0, frame_index - world.context_frames + 1)
    span = slice(first, frame_index + 1)
    config = prior.status_config
    status = np.zeros(1, np.int64)
    if config.variable:
        value = episode.variables[config.variable][frame_index : frame_index + 1]
        status = status_bins(config, value)
    context = world.context(
        torch.from_numpy(episode.frames[span])[None],
        torch.from_numpy(episode.actions[first:frame_index])[None],
        torch.from_numpy(episode.frame_valid[span])[None],
        torch.from_numpy(status),
    )
    zeros = torch.zeros(simulator.num_rows, dtype=torch.int64, device=world.device)
    simulator.reset(context=context.select(zeros))


def compare_clip(
    world: WorldModel,
    data: Dataset,
    episode_index: int,
    frame_index: int,
    length: int,
    actions: Any = None,
    seed: int = 0,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
) -> ClipComparison:
    """A recorded clip, its reconstruction, and the frames that the world dreams from its first frame on.

    Args:
        world: the learned world.
        data: the dataset of the episode.
        episode_index: the episode's number.
        frame_index: the clip's first frame.
        length: L.
        actions: (L-1,) or (L-1, A) to dream with; None takes the recorded ones.
        seed: of the dream.
        sampling: how the frames' codes are sampled.

    Raises:
        UserError: the episode is too short, or its first frame is not valid.
    """
    episode = data.episode(episode_index)
    if frame_index + length > episode.length + 1:
        raise UserError(
            f"a clip of {length} frames from frame {frame_index} does not fit into episode {episode_index} of "
            f"{episode.length + 1} frames."
        )
    real = episode.frames[frame_index : frame_index + length]
    first = max(0, frame_index - world.tokenizer.encoder_past - world.tokenizer.decoder_past)
    known = torch.from_numpy(episode.frames[first : frame_index + length])[None]
    codes = world.tokenizer.encode(known.to(world.device))
    reconstructed = world.tokenizer.decode(codes)[0, frame_index - first :].cpu().numpy()
    recorded_actions = episode.actions[frame_index : frame_index + length - 1]
    actions = recorded_actions if actions is None else np.asarray(actions)
    simulator = Simulator(world, 1, seed=seed, sampling=sampling)
    reset_to_episode(simulator, data, episode_index, frame_index)
    frames, end_step = [simulator.state.frames[0].cpu().numpy()], None
    for t, action in enumerate(actions):
        step = simulator.step(torch.as_tensor(np.asarray(action))[None])
        frames.append(step.frames[0].cpu().numpy())
        if end_step is None and bool(step.terminations[0]):
            end_step = t + 1
    return ClipComparison(real, reconstructed, np.stack(frames), actions, end_step)


def render_comparisons(
    world: WorldModel, data: Dataset, episodes: np.ndarray, starts: np.ndarray, length: int, seed: int
) -> np.ndarray:
    """An image of recorded clips, each above the clip dreamed from its first frame with the same actions.

    Training gets this function as its argument `draw_dreams`, since it imports nothing of this package.

    Args:
        world: the learned world.
        data: the dataset of the episodes.
        episodes: (n,) int64, the episodes' numbers.
        starts: (n,) int64, the clips' first frames.
        length: L.
        seed: of the dreams.

    Returns:
        (2n*H, L*W, 3) uint8.
    """
    rows = []
    for episode_index, start in zip(episodes, starts, strict=True):
        clip = compare_clip(world, data, int(episode_index), int(start), length, seed=seed)
        rows += [np.concatenate(list(frames), axis=1) for frames in (clip.real, clip.dreamed)]
    return np.concatenate(rows, axis=0)
