"""Images for Stable-Baselines3 with the channels first, whatever their shape.

SB3 takes the smallest of the three axes for the channels. It is wrong where frames have fewer rows or columns than
stacked channels (DLR-RM/stable-baselines3#212): then its convolutions run over columns and colours.
"""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecTransposeImage


class VecChannelsFirst(VecTransposeImage):
    """A VecEnv of images (H, W, C) as one of images (C, H, W). SB3 transposes no environment that has this wrapper."""

    @staticmethod
    def transpose_space(observation_space: spaces.Box, key: str = "") -> spaces.Box:
        """(H, W, C) -> (C, H, W), without a guess which axis has the channels."""
        height, width, channels = observation_space.shape
        return spaces.Box(0, 255, (channels, height, width), np.uint8)
