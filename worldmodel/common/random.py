"""Counted randomness in numpy: the numbers of `prior.sampling.uniforms`, to the bit, and what both are made of.

Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). Words are 32 bits in uint64.
"""

from __future__ import annotations

import numpy as np

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10

STREAM_STEP = 0  # what happens in a step of a dream
STREAM_START = 1  # which start an episode takes


def uniforms(
    seeds: np.ndarray, episodes: np.ndarray, steps: np.ndarray, num: int, stream: int = STREAM_STEP
) -> np.ndarray:
    """Uniform numbers for one moment of each row.

    Args:
        seeds: (B,) int64, one a row; all 64 bits count.
        episodes: (B,) int64, the row's episode number in [0, 2^32).
        steps: (B,) int64, its step within the episode in [0, 2^32).
        num: numbers wanted a row.
        stream: what they are for, so that two uses never share a number.

    Returns:
        (B, num) float32 in [0, 1), multiples of 2^-24.
    """
    blocks, rows = (num + 3) // 4, len(seeds)
    even = np.empty((2, rows, blocks), np.uint64)  # the counter's words 0 and 2; 1 and 3 are odd
    odd = np.empty_like(even)
    even[0], even[1] = np.arange(blocks, dtype=np.uint64), episodes.astype(np.uint64)[:, None]
    odd[0], odd[1] = steps.astype(np.uint64)[:, None], np.uint64(stream)
    mask, half, words = np.uint64(MASK), np.uint64(32), seeds.astype(np.uint64)
    halves = np.stack([words & mask, words >> half])[:, :, None]  # (2, B, 1)
    turns = np.arange(ROUNDS, dtype=np.uint64)[:, None, None, None]
    weyl = np.array(WEYL, np.uint64)[:, None, None]
    keys = (halves + turns * weyl) & mask  # (ROUNDS, 2, B, 1)
    multipliers = np.array(MULTIPLIERS, np.uint64)[:, None, None]
    for key in keys:
        product = even * multipliers  # below 2^64
        even = (product >> half)[::-1] ^ odd ^ key
        odd = (product & mask)[::-1]
    words = np.stack([even[0], odd[0], even[1], odd[1]], -1).reshape(rows, -1)[:, :num]  # (B, blocks, 4) -> (B, num)
    return (words >> np.uint64(8)).astype(np.float32) * np.float32(2.0**-24)
