"""Frames on the screen, for `render_mode="human"`."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldmodel.common.errors import UserError


class Display:
    """Shows frames (H, W, 3) uint8, enlarged, in a window of the desktop.

    Args:
        title: the title of the window.
        fps: frames per second; `show` waits 1 / fps seconds.
        scale: integer factor of enlargement.

    Raises:
        UserError: pygame is not installed, or there is no screen.
    """

    def __init__(self, title: str, fps: float, scale: int = 8) -> None:
        try:
            import pygame
        except ImportError as error:
            raise UserError("render_mode='human' needs pygame: pip install pygame-ce, or use 'rgb_array'.") from error
        try:
            pygame.display.init()
        except pygame.error as error:
            raise UserError(f"render_mode='human' found no screen ({error}); use 'rgb_array'.") from error
        self.pygame, self.title, self.fps, self.scale = pygame, title, fps, scale
        self.clock = pygame.time.Clock()
        self.surface: Any = None

    def show(self, frame: np.ndarray) -> None:
        """Show a frame and wait until the next one is due."""
        enlarged = frame.repeat(self.scale, 0).repeat(self.scale, 1)  # (H*scale, W*scale, 3)
        size = (enlarged.shape[1], enlarged.shape[0])
        if self.surface is None or self.surface.get_size() != size:
            self.surface = self.pygame.display.set_mode(size)
            self.pygame.display.set_caption(self.title)
        self.pygame.surfarray.blit_array(self.surface, enlarged.swapaxes(0, 1))
        self.pygame.display.flip()
        self.pygame.event.pump()
        self.clock.tick(self.fps)

    def close(self) -> None:
        """Close the window."""
        self.pygame.display.quit()
