"""Counter-based random numbers in numpy: Philox 4x32-10.

Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". Equal bit for bit to the torch implementation in
`worldmodel.prior.sampling`, which imports the constants of this module. Words are 32 bits, stored in uint64.
"""

from __future__ import annotations

import numpy as np

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10

# Streams keep the random numbers of different uses apart.
STREAM_STEP = 0  # a step of a dream
STREAM_START = 1  # the choice of the start of an episode
STREAM_MIRROR = 2  # whether an episode of a learner, or a clip of a training step, is mirrored


def uniforms(
    seeds: np.ndarray, episodes: np.ndarray, steps: np.ndarray, num: int, stream: int = STREAM_STEP
) -> np.ndarray:
    """Uniform numbers for one time step of each row: a function of (seed, episode, step, stream) alone.

    Shapes: B rows.

    Args:
        seeds: (B,) int64; all 64 bits are used.
        episodes: (B,) int64, the episode number of each row, in [0, 2^32).
        steps: (B,) int64, the step within the episode, in [0, 2^32).
        num: how many numbers per row.
        stream: a `STREAM_` constant; two uses never share a number.

    Returns:
        (B, num) float32 in [0, 1), multiples of 2^-24.
    """
    blocks, rows = (num + 3) // 4, len(seeds)
    even = np.empty((2, rows, blocks), np.uint64)  # words 0 and 2 of the counter; words 1 and 3 are in `odd`
    odd = np.empty_like(even)
    even[0], even[1] = np.arange(blocks, dtype=np.uint64), episodes.astype(np.uint64)[:, None]
    odd[0], odd[1] = steps.astype(np.uint64)[:, None], np.uint64(stream)
    mask, half, words = np.uint64(MASK), np.uint64(32), seeds.astype(np.uint64)
    halves = np.stack([words & mask, words >> half])[:, :, None]  # (2, B, 1)
    round_numbers = np.arange(ROUNDS, dtype=np.uint64)[:, None, None, None]
    weyl = np.array(WEYL, np.uint64)[:, None, None]
    keys = (halves + round_numbers * weyl) & mask  # (ROUNDS, 2, B, 1)
    multipliers = np.array(MULTIPLIERS, np.uint64)[:, None, None]
    for key in keys:
        product = even * multipliers  # below 2^64
        even = (product >> half)[::-1] ^ odd ^ key
        odd = (product & mask)[::-1]
    words = np.stack([even[0], odd[0], even[1], odd[1]], -1).reshape(rows, -1)[:, :num]  # (B, blocks, 4) -> (B, num)
    return (words >> np.uint64(8)).astype(np.float32) * np.float32(2.0**-24)
