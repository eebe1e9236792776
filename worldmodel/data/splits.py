"""The split of an episode: by the rule "hash" or "given".

"hash": a function of (seed, index), exactly 8 : 1 : 1 in every block of ten indices. docs/file_format.md specifies the
rule, which uses 64-bit integers only. "given": each episode has its official split.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

SPLITS = ("train", "validation", "test")
HASH, GIVEN = SPLIT_RULES = ("hash", "given")
BLOCK = 10
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix64(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64, a bijective hash of 64-bit integers; uint64 in and out."""
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def split_numbers(seed: int, indices: Iterable[int] | np.ndarray) -> np.ndarray:
    """Splits of episodes, as numbers.

    Args:
        seed: seed of the recording (`Header.seed`).
        indices: N episode indices.

    Returns:
        (N,) uint8: 0 train, 1 validation, 2 test.
    """
    index = np.asarray(list(indices) if not isinstance(indices, np.ndarray) else indices).astype(np.uint64)
    ten = np.uint64(BLOCK)
    block, position = index // ten, index % ten
    key = mix64(mix64(np.asarray([seed], np.uint64)) + block)  # (N,)
    hashes = mix64(key[:, None] + np.arange(BLOCK, dtype=np.uint64))  # (N, 10)
    own_hash = np.take_along_axis(hashes, position[:, None].astype(np.int64), axis=1)
    rank = (hashes < own_hash).sum(axis=1)  # (N,), position of the episode in the shuffled block
    return np.where(rank < 8, 0, rank - 7).astype(np.uint8)


def split_of(seed: int, index: int) -> str:
    """The split of one episode: "train", "validation" or "test"."""
    return SPLITS[int(split_numbers(seed, [index])[0])]


def split_counts(numbers: np.ndarray) -> dict[str, int]:
    """The number of episodes of each split, from split numbers."""
    return {name: int((numbers == i).sum()) for i, name in enumerate(SPLITS)}


def missing_splits(numbers: np.ndarray, rule: str = HASH) -> str | None:
    """A sentence that names the splits without episodes; None if there are none."""
    counts = split_counts(numbers)
    empty = [name for name, count in counts.items() if not count]
    if not empty:
        return None
    present = ", ".join(f"{count} {name}" for name, count in counts.items())
    problem = f"there is no {' and no '.join(empty)} episode ({present})"
    if rule == GIVEN:
        return f"{problem}: the splits of this dataset are given, and it has no episodes of that name."
    return (
        f"{problem}: splits are exact in every block of {BLOCK} indices. Record {BLOCK} episodes or more to have all "
        "three."
    )
