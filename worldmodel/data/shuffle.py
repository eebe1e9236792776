"""A permutation that is computed place by place: no list of N numbers is ever made.

A Feistel network over pairs (l, r) with l < a and r < b, a * b just above N, whose rounds add a keyed hash of
the one half to the other (modulo a or b); results at or above N are sent through again (cycle walking).
"""

from __future__ import annotations

import math

import numpy as np

from worldmodel.data.splits import mix64

ROUNDS = 8


def permute(position: np.ndarray, num: int, seed: int, epoch: np.ndarray) -> np.ndarray:
    """Where each position goes in its epoch's order.

    For a fixed seed and epoch it is a permutation of 0 .. num-1.

    Args:
        position: (B,) int64 in [0, num).
        num: how many there are, 1 .. 2**62.
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
    left: np.ndarray = np.arange(len(result))  # places whose result is not yet below num
    while left.size:
        high, low = result[left] // wide_a, result[left] % wide_a  # < b, < a
        mine = keys[:, left]
        for number in range(0, ROUNDS, 2):
            low = (low + mix64(mine[number] ^ high) % wide_a) % wide_a
            high = (high + mix64(mine[number + 1] ^ low) % wide_b) % wide_b
        result[left] = high * wide_a + low
        left = left[result[left] >= top]
    return result.astype(np.int64)
