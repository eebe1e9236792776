"""Scores of planned steps: what a planner maximizes.

Shapes: N rows, H W pixels, h w code grid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from worldmodel.common.errors import UserError
from worldmodel.tokenizer import Tokenizer

Score = Callable[[Any], Tensor]
"""The score of one step of each row, (N,) float32, from a step with `frames` (N, H, W, 3) uint8 and `rewards` (N,): a
`SimulatorStep` in a dream, an `EnvSteps` in an environment. A plan's score is the sum over its steps."""


def reward_score(step: Any) -> Tensor:
    """The rewards: (N,). A row that has ended gets no more rewards, so survival counts."""
    return step.rewards


def goal_similarity(goal: Tensor) -> Score:
    """A score that is higher the more similar the frame is to a goal, and the sooner.

    Args:
        goal: (H, W, 3) uint8.

    Returns:
        Minus the mean absolute difference of the pixels, in [-1, 0] per step.
    """

    def score(step: Any) -> Tensor:
        return -_pixel_difference(step.frames, goal).abs().mean((1, 2, 3)) / 255

    return score


def goal_mse(goal: Tensor) -> Score:
    """Minus the mean squared error between the frame's pixels and those of a goal, in [-1, 0] per step.

    Args:
        goal: (H, W, 3) uint8.
    """

    def score(step: Any) -> Tensor:
        return -_pixel_difference(step.frames, goal).square().mean((1, 2, 3)) / 255**2

    return score


def goal_embedding_mse(goal: Tensor, tokenizer: Tokenizer) -> Score:
    """Minus the mean squared error between the embeddings of the frame's codes and those of a goal's codes.

    Frames of an environment are encoded; a dream's codes are known.

    Args:
        goal: (H, W, 3) uint8.
        tokenizer: of the world.

    Raises:
        UserError: a causal tokenizer, whose codes of a frame depend on the frames before.
    """
    if tokenizer.config.time == "causal":
        raise UserError(
            "goal embeddings: the codes of a causal tokenizer depend on earlier frames, which a goal does not have; "
            "take the score of pixels."
        )

    def embeddings(codes: Tensor) -> Tensor:  # (N, h, w) -> (N, h, w, d)
        return tokenizer.codebook.decode(codes)

    def encode(frames: Tensor) -> Tensor:  # (N, H, W, 3) -> (N, h, w)
        return tokenizer.encode(frames[:, None])[:, 0]

    target = embeddings(encode(goal[None].to(tokenizer.pixel_mean.device)))

    def score(step: Any) -> Tensor:
        codes = getattr(step, "codes", None)
        codes = encode(step.frames.to(target.device)) if codes is None else codes
        return -(embeddings(codes) - target).square().mean((1, 2, 3))

    return score


def frame_score(function: Callable[[Tensor], Tensor]) -> Score:
    """A score of the frames alone.

    Args:
        function: (N, H, W, 3) uint8 -> (N,) float32.
    """
    return lambda step: function(step.frames)


def _pixel_difference(frames: Tensor, goal: Tensor) -> Tensor:
    """(N, H, W, 3) float32 in [-255, 255].

    Raises:
        UserError: the goal has another shape than the frames.
    """
    target = goal.to(frames.device, torch.float32)
    if target.shape != frames.shape[1:]:
        raise UserError(f"goal: got a frame of shape {tuple(goal.shape)}, this world's have {tuple(frames.shape[1:])}.")
    return frames.float() - target
