"""The environment of a learner: cropped and stacked frames, repeated actions. `LearnedPolicy` does the same."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from worldmodel.collect.learned_policy import observed_view
from worldmodel.collect.learner_config import LearnerConfig
from worldmodel.common.action_planes import ActionPlanes
from worldmodel.common.errors import UserError
from worldmodel.common.mirroring import action_mirror
from worldmodel.common.policy_view import FrameStack
from worldmodel.common.random import STREAM_MIRROR
from worldmodel.common.spaces import from_gymnasium


class LearnerView(gym.Wrapper):
    """Frames (H, W, 3) -> observations (h, w, 3 * frame_stack + P) uint8. One step is `hold` steps of `env`.

    P planes hold the last action if `learner.last_action`. With `learner.mirror` each episode is mirrored with
    probability one half; the seed of a reset decides which.

    Args:
        env: a `PixelEnv` or a `DreamEnv`.
        learner: frame_stack, last_action, view, hold, reward, reward_scale, mirror.
    """

    def __init__(self, env: gym.Env, learner: LearnerConfig) -> None:
        super().__init__(env)
        self.learner = learner
        self.stack = FrameStack(learner.frame_stack)
        unwrapped: Any = env.unwrapped
        spec = unwrapped.meta if hasattr(unwrapped, "meta") else unwrapped.world.spec
        space = from_gymnasium(env.action_space)
        self.view = observed_view(learner, spec.pixels, space)
        self.planes = ActionPlanes(space) if learner.last_action else None
        self.mirror, self.mirrored, self.coin = None, False, np.random.default_rng()
        if learner.mirror:
            env_id = spec.id if hasattr(unwrapped, "meta") else spec.env
            self.mirror = action_mirror(env_id, spec.action_space, spec.action_labels, spec.pixels)
        if learner.reward != "env" and "health" not in env.unwrapped.meta.variables:  # type: ignore[attr-defined]
            raise UserError(
                f"learner.reward={learner.reward!r} needs an environment with the variable 'health'; this one has "
                f"{env.unwrapped.meta.variables}."  # type: ignore[attr-defined]
            )
        self.observation_space = spaces.Box(0, 255, self.view.shape, np.uint8)
        self.health = 0.0

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        if kwargs.get("seed") is not None:
            self.coin = np.random.default_rng([kwargs["seed"], STREAM_MIRROR])
        self.mirrored = self.mirror is not None and bool(self.coin.random() < 0.5)
        frame, info = self.env.reset(**kwargs)
        if self.learner.reward != "env":
            self.health = info["variables"]["health"]
        return self._with_action(self.stack.reset(self._visible(frame)), None), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Repeat the action `hold` times, or until the episode ends; rewards are summed."""
        chosen, total = action, 0.0
        if self.mirror is not None and self.mirrored:
            action = self.mirror(np.asarray(action))
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
            stacked = self.stack.push(self._visible(frame))
            if terminated or truncated:
                break
        observation = self._with_action(stacked, chosen)
        return observation, total * self.learner.reward_scale, terminated, truncated, info

    def _visible(self, frame: np.ndarray) -> np.ndarray:
        """The part of a frame that the policy sees, flipped in a mirrored episode."""
        return self.view.crop(frame[:, ::-1] if self.mirrored else frame)

    def _with_action(self, stacked: np.ndarray, action: Any) -> np.ndarray:
        """Stacked frames with the planes of the last action, which is None before the first."""
        return stacked if self.planes is None else self.planes.append_action(stacked, action)


class SmallEncoder(BaseFeaturesExtractor):
    """PixelUnshuffle(2), then 3x3 convolutions: on two cores four times faster than strided 5x5 convolutions.

    Args:
        observation_space: (C, H, W) in [0, 1] after SB3 has transposed and scaled it; H and W at least 16.
        width: channels of the first convolution, doubled by the next.
        features_dim: size of the output.
        action_planes: constant planes behind the frames that hold the last action. They pass by the convolutions.
    """

    def __init__(
        self, observation_space: spaces.Box, width: int = 32, features_dim: int = 256, action_planes: int = 0
    ) -> None:
        super().__init__(observation_space, features_dim)
        channels, height, width_in = observation_space.shape
        self.frame_channels = channels = channels - action_planes
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
        self.out = nn.Sequential(nn.Linear(flat + action_planes, features_dim), nn.ReLU())

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, features_dim)."""
        frames, planes = observations[:, : self.frame_channels], observations[:, self.frame_channels :]
        return self.out(torch.cat([self.net(frames), planes[:, :, 0, 0]], 1))
