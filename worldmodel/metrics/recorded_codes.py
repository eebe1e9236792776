"""Codes of recorded clips, as a world has them in the middle of an episode.

Shapes: B clips, L frames a clip, H W pixels, h w code grid.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from worldmodel.data import Dataset
from worldmodel.tokenizer import Tokenizer


def encode_recorded(
    tokenizer: Tokenizer, data: Dataset, frames: Tensor, episodes: np.ndarray, starts: np.ndarray
) -> Tensor:
    """Encode clips. A causal tokenizer also reads the frames before them, on which their codes depend.

    Args:
        tokenizer: encodes on its device.
        data: the dataset of the clips.
        frames: (B, L, H, W, 3) uint8, the clips' frames.
        episodes: (B,) the clips' episodes.
        starts: (B,) their first frames.

    Returns:
        (B, L, h, w) int64.
    """
    device, past = tokenizer.pixel_mean.device, np.minimum(starts, tokenizer.encoder_past)
    if not past.any():
        return tokenizer.encode(frames.to(device))
    codes = torch.zeros((*frames.shape[:2], *tokenizer.grid), dtype=torch.int64, device=device)
    for count in np.unique(past).tolist():
        rows = np.flatnonzero(past == count)
        clips = zip(episodes[rows].tolist(), starts[rows].tolist(), strict=True)
        earlier = torch.from_numpy(np.stack([data.frames(e, start - count, start) for e, start in clips]))
        index = torch.from_numpy(rows)
        together = torch.cat([earlier, frames[index]], 1)  # (n, count + L, H, W, 3)
        codes[index.to(device)] = tokenizer.encode(together.to(device))[:, count:]
    return codes
