"""Similarity of frames.

Shapes: N frames, H W pixels. Frames are uint8 (N, H, W, 3).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # of the Gaussian of SSIM (Wang et al. 2004)
CHANGED = 8  # a pixel has changed if one of its colours differs by more levels
MAX_BRIGHT = 0.05  # a frame with a larger share of bright pixels flashes: it has no small bright pixels
NEAR = 2  # pixels: largest distance at which a bright pixel counts as found
CHUNK = 256  # frames compared at once, to bound memory


def psnr(real: Tensor, candidate: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio of each frame, in dB; at most 100.

    Args:
        real, candidate: (N, H, W, 3) uint8.
        mask: (N, H, W) bool, the pixels that count; None for all.

    Returns:
        (N,) float64, NaN where no pixel counts.
    """
    error = ((real.double() - candidate.double()) / 255).square().mean(-1)  # (N, H, W)
    mse = error.mean((1, 2)) if mask is None else (error * mask).sum((1, 2)) / mask.sum((1, 2))
    return -10 * mse.clamp_min(1e-10).log10()


def ssim(real: Tensor, candidate: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004): Gaussian window of 11 pixels, no padding, mean over colours.

    Args:
        real, candidate: (N, H, W, 3) uint8; H and W at least 11.

    Returns:
        (N,) float64, 1 for equal frames.
    """
    return torch.cat([_ssim(a, b) for a, b in zip(real.split(CHUNK), candidate.split(CHUNK), strict=True)])


def _ssim(real: Tensor, candidate: Tensor) -> Tensor:
    x, y = (frames.permute(0, 3, 1, 2).float() for frames in (real, candidate))  # (N, 3, H, W)
    rows, columns = _gaussian_matrix(x.shape[2], x.device), _gaussian_matrix(x.shape[3], x.device)

    def smooth(values: Tensor) -> Tensor:
        return rows @ values @ columns.T  # (N, 3, H-10, W-10)

    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    covariance = smooth(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    index = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    index = index / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return index.double().mean((1, 2, 3))


def _gaussian_matrix(size: int, device: torch.device) -> Tensor:
    """The Gaussian window as a matrix from `size` pixels to the size - 10 positions where it fits."""
    offsets = torch.arange(WINDOW, device=device) - (WINDOW - 1) / 2
    window = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    matrix = torch.zeros(size - WINDOW + 1, size, device=device)
    for position in range(size - WINDOW + 1):
        matrix[position, position : position + WINDOW] = window / window.sum()
    return matrix


def brightness(frames: Tensor) -> Tensor:
    """The largest colour of each pixel: (..., 3) uint8 -> (...) uint8."""
    return frames.amax(-1)


def small_bright(frames: Tensor, threshold: int) -> Tensor:
    """Pixels above the threshold; none in a frame that flashes: (N, H, W, 3) uint8 -> (N, H, W) bool."""
    bright = brightness(frames) > threshold
    return bright & (bright.float().mean((1, 2)) <= MAX_BRIGHT)[:, None, None]


def changed(before: Tensor, after: Tensor) -> Tensor:
    """Pixels that differ by more than `CHANGED` levels in some colour: two (N, H, W, 3) uint8 -> (N, H, W) bool."""
    return (after.short() - before.short()).abs().amax(-1) > CHANGED


def bright_recall_counts(real: Tensor, candidate: Tensor, threshold: int) -> tuple[Tensor, Tensor]:
    """Count small bright pixels of each real frame, and how many have a bright dreamed pixel at most `NEAR` away.

    Args:
        real, candidate: (N, H, W, 3) uint8.
        threshold: a pixel whose largest colour is above this is bright.

    Returns:
        Number found and number in total, (N,) int64 each; their ratio is the recall.
    """
    bright = small_bright(real, threshold)  # (N, H, W)
    return (bright & _dilate(brightness(candidate) > threshold)).sum((1, 2)), bright.sum((1, 2))


def bright_precision_counts(real: Tensor, candidate: Tensor, threshold: int) -> tuple[Tensor, Tensor]:
    """Count bright pixels of each dreamed frame, and how many have a bright real pixel at most `NEAR` away.

    Nothing is counted where the real frame flashes; a dreamed flash where the real frame has none counts in full.

    Args:
        real, candidate: (N, H, W, 3) uint8.
        threshold: a pixel whose largest colour is above this is bright.

    Returns:
        Number right and number in total, (N,) int64 each; their ratio is the precision.
    """
    bright = brightness(real) > threshold  # (N, H, W)
    no_flash = bright.float().mean((1, 2)) <= MAX_BRIGHT
    dreamed = (brightness(candidate) > threshold) & no_flash[:, None, None]
    return (dreamed & _dilate(bright)).sum((1, 2)), dreamed.sum((1, 2))


def _dilate(bright: Tensor) -> Tensor:
    """Pixels with a bright one at most `NEAR` away in rows and in columns: (N, H, W) bool to the same."""
    return F.max_pool2d(bright.float()[:, None], 2 * NEAR + 1, 1, NEAR)[:, 0] > 0
