"""How many torch threads a step uses.

Few rows give small matrices, for which the synchronisation of threads costs more than it gains (docs/speed.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

ROWS_PER_THREAD = 16


def threads_for_rows(rows: int) -> int:
    """One thread for every `ROWS_PER_THREAD` rows that are computed at once, at least one."""
    return max(1, rows // ROWS_PER_THREAD)


@contextmanager
def limit_threads(threads: int) -> Iterator[None]:
    """Let torch use at most `threads` threads inside the block.

    A thread of the program that uses torch for the first time during the block keeps the smaller number.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(min(threads, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
