"""A pseudo-random permutation that is computed element by element, without a list of N numbers.

A Feistel network over pairs (low, high) with low < a, high < b and a * b slightly above N. Each round adds a keyed
hash of one half to the other, modulo a or b. Results at or above N are permuted again (cycle walking).
"""

from __future__ import annotations

import math

import numpy as np

from worldmodel.data.splits import mix64

ROUNDS = 8


def permute(position: np.ndarray, num: int, seed: int, epoch: np.ndarray) -> np.ndarray:
    """Permute positions within their epochs.

    For a fixed seed and epoch this is a permutation of 0 .. num-1.

    Args:
        position: (B,) int64 in [0, num).
        num: number of elements, 1 .. 2**62.
        seed: 0 .. 2**63 - 1.
        epoch: (B,) int64 >= 0.

    Returns:
        (B,) int64 in [0, num).
    """
    a = math.isqrt(num - 1) + 1
    b = -(-num // a)
    epoch_key = mix64(mix64(np.asarray([seed], np.uint64)) ^ epoch.astype(np.uint64))  # (B,)
    keys = mix64(epoch_key + np.arange(1, ROUNDS + 1, dtype=np.uint64)[:, None])  # (ROUNDS, B)
    wide_a, wide_b, top = (np.asarray([x], np.uint64) for x in (a, b, num))
    result = position.astype(np.uint64)
    pending: np.ndarray = np.arange(len(result))  # elements whose result is not yet below num
    while pending.size:
        high, low = result[pending] // wide_a, result[pending] % wide_a  # < b, < a
        round_keys = keys[:, pending]
        for number in range(0, ROUNDS, 2):
            low = (low + mix64(round_keys[number] ^ high) % wide_a) % wide_a
            high = (high + mix64(round_keys[number + 1] ^ low) % wide_b) % wide_b
        result[pending] = high * wide_a + low
        pending = pending[result[pending] >= top]
    return result.astype(np.int64)
