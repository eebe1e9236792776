"""The environment of a learner: cropped and stacked frames, repeated actions. `LearnedPolicy` does the same."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from worldmodel.collect.learner_config import LearnerConfig
from worldmodel.common.errors import UserError
from worldmodel.common.policy_view import FrameStack, PolicyView


class LearnerView(gym.Wrapper):
    """Frames (H, W, 3) -> observations (h, w, 3 * frame_stack) uint8. One step is `hold` steps of `env`.

    Args:
        env: a `PixelEnv` or a `DreamEnv`.
        learner: frame_stack, view, hold, reward, reward_scale.
    """

    def __init__(self, env: gym.Env, learner: LearnerConfig) -> None:
        super().__init__(env)
        self.learner = learner
        self.stack = FrameStack(learner.frame_stack)
        unwrapped: Any = env.unwrapped
        pixels = (unwrapped.meta if hasattr(unwrapped, "meta") else unwrapped.world.spec).pixels
        self.view = PolicyView(pixels.frame_shape, learner.frame_stack, learner.view, pixels.origin, "learner.view")
        if learner.reward != "env" and "health" not in env.unwrapped.meta.variables:  # type: ignore[attr-defined]
            raise UserError(
                f"learner.reward={learner.reward!r} needs an environment with the variable 'health'; this one has "
                f"{env.unwrapped.meta.variables}."  # type: ignore[attr-defined]
            )
        self.observation_space = spaces.Box(0, 255, self.view.shape, np.uint8)
        self.health = 0.0

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        frame, info = self.env.reset(**kwargs)
        if self.learner.reward != "env":
            self.health = info["variables"]["health"]
        return self.stack.reset(self.view.crop(frame)), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Repeat the action `hold` times, or until the episode ends; rewards are summed."""
        total = 0.0
        for _ in range(self.learner.hold):
            frame, reward, terminated, truncated, info = self.env.step(action)
            if self.learner.reward != "env":
                # after termination health is 0: the variable repeats its last valid value
                health = 0.0 if terminated else max(info["variables"]["health"], 0.0)
                change = (health - self.health) / 100
                total += min(change, 0.0) if self.learner.reward == "health" else change
                self.health = health
            else:
                total += float(reward)
            observation = self.stack.push(self.view.crop(frame))
            if terminated or truncated:
                break
        return observation, total * self.learner.reward_scale, terminated, truncated, info


class SmallEncoder(BaseFeaturesExtractor):
    """PixelUnshuffle(2), then 3x3 convolutions: on two cores four times faster than strided 5x5 convolutions.

    Args:
        observation_space: (C, H, W) in [0, 1] after SB3 has transposed and scaled it; H and W at least 16.
        width: channels of the first convolution, doubled by the next.
        features_dim: size of the output.
    """

    def __init__(self, observation_space: spaces.Box, width: int = 32, features_dim: int = 256) -> None:
        super().__init__(observation_space, features_dim)
        channels, height, width_in = observation_space.shape
        self.net = nn.Sequential(
            nn.PixelUnshuffle(2),  # (B, 4C, H/2, W/2)
            nn.Conv2d(4 * channels, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),  # (B, 2w, H/16, W/16)
            nn.ReLU(),
            nn.Flatten(),
        )
        with torch.no_grad():
            flat = self.net(torch.zeros(1, channels, height, width_in)).shape[1]
        self.out = nn.Sequential(nn.Linear(flat, features_dim), nn.ReLU())

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, features_dim)."""
        return self.out(self.net(observations))
