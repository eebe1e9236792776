"""Big arrays that are used again once nobody holds them any more.

A fresh array of some megabytes costs more in page faults than copying the frames into it. The pool keeps the
memory of arrays that it gave out and gives it out again when the last view of it is gone, so that arrays
behave as fresh ones: they never change under whoever holds them.
"""

from __future__ import annotations

import math
import sys
import threading

import numpy as np


def _holders(blocks: list[np.ndarray], number: int) -> int:
    """Reference count of a block as seen from here; always asked in this one way."""
    return sys.getrefcount(blocks[number])


class BufferPool:
    """Gives out uint8 arrays; safe to use from several threads.

    A view of a numpy array refers to the array that owns the memory, however often it is viewed again, and
    so do tensors and memoryviews made from it: the owner's reference count tells whether anyone is left.

    Args:
        limit: at most so many blocks are kept; beyond, arrays are ordinary fresh ones.
    """

    def __init__(self, limit: int = 8) -> None:
        self.limit = limit
        self._blocks: list[np.ndarray] = []
        self._lock = threading.Lock()
        self._idle = _holders([np.empty(0, np.uint8)], 0)  # the count of a block that nobody holds
        # Without the global lock, counts are kept apart per thread and tell nothing at a glance.
        self._reuse = getattr(sys, "_is_gil_enabled", lambda: True)()

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """An array of this shape, uint8, its values anything."""
        if not self._reuse:
            return np.empty(shape, np.uint8)
        num_bytes = math.prod(shape)
        with self._lock:
            for number in range(len(self._blocks)):
                if self._blocks[number].size == num_bytes and _holders(self._blocks, number) == self._idle:
                    return self._blocks[number].reshape(shape)
            block = np.empty(num_bytes, np.uint8)
            self._blocks = [*self._blocks, block][-self.limit :]
            return block.reshape(shape)
