"""How alike two pictures are.

Shapes: N frames, H W pixels. Frames are uint8 (N, H, W, 3); whoever compares in floats means [0, 255].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # of the Gaussian of SSIM (Wang et al. 2004)
CHANGED = 8  # levels by which some colour of a pixel must differ to have changed
SMALL = 0.05  # share of bright pixels above which a frame flashes and shows no small bright things
NEAR = 2  # pixels: as far away a bright pixel still counts as found
CHUNK = 256  # frames compared at once, to bound memory


def psnr(real: Tensor, made: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio of each frame, in dB; at most 100.

    Args:
        real, made: (N, H, W, 3) uint8.
        mask: (N, H, W) bool, the pixels that count; all if not given.

    Returns:
        (N,) float64, NaN where no pixel counts.
    """
    error = ((real.double() - made.double()) / 255).square().mean(-1)  # (N, H, W)
    mse = error.mean((1, 2)) if mask is None else (error * mask).sum((1, 2)) / mask.sum((1, 2))
    return -10 * mse.clamp_min(1e-10).log10()


def ssim(real: Tensor, made: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004): Gaussian window of 11 pixels, whole windows only, mean over colours.

    Args:
        real, made: (N, H, W, 3) uint8; H and W at least 11.

    Returns:
        (N,) float64, 1 for equal frames.
    """
    return torch.cat([_ssim(a, b) for a, b in zip(real.split(CHUNK), made.split(CHUNK), strict=True)])


def _ssim(real: Tensor, made: Tensor) -> Tensor:
    x, y = (frames.permute(0, 3, 1, 2).float() for frames in (real, made))  # (N, 3, H, W)
    rows, columns = _smoother(x.shape[2], x.device), _smoother(x.shape[3], x.device)

    def smooth(values: Tensor) -> Tensor:
        return rows @ values @ columns.T  # (N, 3, H-10, W-10)

    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    covariance = smooth(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    index = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    index = index / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return index.double().mean((1, 2, 3))


def _smoother(size: int, device: torch.device) -> Tensor:
    """The Gaussian window as a matrix from `size` pixels to the size - 10 places where it fits."""
    at = torch.arange(WINDOW, device=device) - (WINDOW - 1) / 2
    window = torch.exp(-(at**2) / (2 * SIGMA**2))
    matrix = torch.zeros(size - WINDOW + 1, size, device=device)
    for place in range(size - WINDOW + 1):
        matrix[place, place : place + WINDOW] = window / window.sum()
    return matrix


def brightness(frames: Tensor) -> Tensor:
    """The largest colour of each pixel: (..., 3) uint8 -> (...) uint8."""
    return frames.amax(-1)


def small_bright(frames: Tensor, threshold: int) -> Tensor:
    """Pixels brighter than the threshold, none in a frame that flashes: (N, H, W, 3) uint8 -> (N, H, W) bool."""
    bright = brightness(frames) > threshold
    return bright & (bright.float().mean((1, 2)) <= SMALL)[:, None, None]


def changed(before: Tensor, after: Tensor) -> Tensor:
    """Pixels that differ by more than `CHANGED` levels in some colour: two (N, H, W, 3) uint8 -> (N, H, W) bool."""
    return (after.short() - before.short()).abs().amax(-1) > CHANGED


def bright_found(real: Tensor, made: Tensor, threshold: int) -> tuple[Tensor, Tensor]:
    """Small bright things of each real frame, and those of them with a bright made pixel at most `NEAR` away.

    Args:
        real, made: (N, H, W, 3) uint8.
        threshold: brighter than this is bright.

    Returns:
        Found and all, (N,) int64 each; their ratio is the recall.
    """
    wanted = small_bright(real, threshold)  # (N, H, W)
    return (wanted & _near(brightness(made) > threshold)).sum((1, 2)), wanted.sum((1, 2))


def bright_right(real: Tensor, made: Tensor, threshold: int) -> tuple[Tensor, Tensor]:
    """Bright pixels of each made frame that have a bright real pixel at most `NEAR` away, and all of them.

    Frames whose real picture flashes count for nothing; a made flash where nothing flashes counts in full.

    Args:
        real, made: (N, H, W, 3) uint8.
        threshold: brighter than this is bright.

    Returns:
        Right and all, (N,) int64 each; their ratio is the precision.
    """
    there = brightness(real) > threshold  # (N, H, W)
    calm = there.float().mean((1, 2)) <= SMALL
    told = (brightness(made) > threshold) & calm[:, None, None]
    return (told & _near(there)).sum((1, 2)), told.sum((1, 2))


def _near(bright: Tensor) -> Tensor:
    """Pixels with a bright one at most `NEAR` away in rows and in columns: (N, H, W) bool, both."""
    return F.max_pool2d(bright.float()[:, None], 2 * NEAR + 1, 1, NEAR)[:, 0] > 0
