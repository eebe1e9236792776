"""How many of torch's threads a computation uses.

Few rows make small matrices. For them a second thread costs more time in synchronisation than it saves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

ROWS_PER_THREAD = 16


def threads_for_rows(num_rows: int) -> int:
    """One thread for every `ROWS_PER_THREAD` rows that are computed at once."""
    return max(1, num_rows // ROWS_PER_THREAD)


@contextmanager
def limit_threads(num_threads: int) -> Iterator[None]:
    """Let torch use at most so many threads inside the block; it may use fewer already.

    The number is per thread of the program. A thread that uses torch for the first time inside the block inherits the
    smaller number.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(min(num_threads, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
