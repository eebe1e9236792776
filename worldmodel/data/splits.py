"""Which split an episode belongs to: a pure function of (seed, index), exactly 8 : 1 : 1 in every ten.

The rule is written out in docs/dataset.md so that others can compute it; it uses 64-bit integers only.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

SPLITS = ("train", "validation", "test")
BLOCK = 10
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix64(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: a bijection of 64-bit integers that scatters them; uint64 in and out."""
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def split_numbers(seed: int, indices: Iterable[int] | np.ndarray) -> np.ndarray:
    """Splits as numbers.

    Args:
        seed: of the recording (`Header.seed`).
        indices: episode indices, N of them.

    Returns:
        (N,) uint8: 0 train, 1 validation, 2 test.
    """
    index = np.asarray(list(indices) if not isinstance(indices, np.ndarray) else indices).astype(np.uint64)
    ten = np.uint64(BLOCK)
    block, place = index // ten, index % ten
    key = mix64(mix64(np.asarray([seed], np.uint64)) + block)  # (N,)
    marks = mix64(key[:, None] + np.arange(BLOCK, dtype=np.uint64))  # (N, 10)
    mine = np.take_along_axis(marks, place[:, None].astype(np.int64), axis=1)
    rank = (marks < mine).sum(axis=1)  # (N,): place of the episode in the shuffled block
    return np.where(rank < 8, 0, rank - 7).astype(np.uint8)


def split_of(seed: int, index: int) -> str:
    """The split of one episode: "train", "validation" or "test"."""
    return SPLITS[int(split_numbers(seed, [index])[0])]


def split_counts(numbers: np.ndarray) -> dict[str, int]:
    """How many episodes each split has, from split numbers."""
    return {name: int((numbers == i).sum()) for i, name in enumerate(SPLITS)}


def lacking_splits(numbers: np.ndarray) -> str | None:
    """Say which splits have no episode, in one sentence; None if each has one."""
    counts = split_counts(numbers)
    empty = [name for name, count in counts.items() if not count]
    if not empty:
        return None
    have = ", ".join(f"{count} {name}" for name, count in counts.items())
    return (
        f"there is no {' and no '.join(empty)} episode ({have}): splits are exact in every block of "
        f"{BLOCK} indices. Record {BLOCK} episodes or more to have all three."
    )
