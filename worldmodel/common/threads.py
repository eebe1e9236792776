"""How many of torch's threads a step is worth. A leaf.

Few rows make small matrices, and a thread that waits for another loses more than it computes (docs/speed.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

ROWS_A_THREAD = 16


def threads_for(rows: int) -> int:
    """One for every `ROWS_A_THREAD` rows computed at once."""
    return max(1, rows // ROWS_A_THREAD)


@contextmanager
def at_most(threads: int) -> Iterator[None]:
    """Let torch use no more threads than these meanwhile; it may have fewer already.

    A thread of the program that uses torch for the first time meanwhile takes over the smaller number.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(min(threads, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
