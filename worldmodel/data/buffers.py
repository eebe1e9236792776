"""Reuse of large arrays after their last reference is gone.

Allocating an array of several megabytes costs more, in page faults, than copying frames into it. The pool keeps the
memory of the arrays that it returned and reuses it after the last view is gone. Callers see no difference from new
arrays: an array never changes while it is referenced.
"""

from __future__ import annotations

import math
import sys
import threading

import numpy as np


def _reference_count(blocks: list[np.ndarray], number: int) -> int:
    """Reference count of a block, including this function's own; only comparable with other calls of it."""
    return sys.getrefcount(blocks[number])


class BufferPool:
    """A pool of uint8 arrays; thread-safe.

    Every view of a numpy array refers to the array that owns the memory, also a view of a view, and so do tensors and
    memoryviews made from it. The reference count of the owner therefore shows whether the memory is in use.

    Args:
        limit: the number of blocks that are kept for reuse; the oldest is dropped first.
    """

    def __init__(self, limit: int = 8) -> None:
        self.limit = limit
        self._blocks: list[np.ndarray] = []
        self._lock = threading.Lock()
        self._idle = _reference_count([np.empty(0, np.uint8)], 0)  # the count of an unused block
        # A free-threaded interpreter keeps reference counts per thread, so they cannot be compared.
        self._reuse = getattr(sys, "_is_gil_enabled", lambda: True)()

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """An uninitialised uint8 array of this shape."""
        if not self._reuse:
            return np.empty(shape, np.uint8)
        num_bytes = math.prod(shape)
        with self._lock:
            for number in range(len(self._blocks)):
                if self._blocks[number].size == num_bytes and _reference_count(self._blocks, number) == self._idle:
                    return self._blocks[number].reshape(shape)
            block = np.empty(num_bytes, np.uint8)
            self._blocks = [*self._blocks, block][-self.limit :]
            return block.reshape(shape)
