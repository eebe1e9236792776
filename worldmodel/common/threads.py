"""How many torch threads a step uses.

Few rows give small matrices, for which the synchronisation of threads costs more than it gains (docs/benchmarks.md).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

import torch

ROWS_PER_THREAD = 16
Method = TypeVar("Method", bound=Callable[..., Any])
_PROCESS = os.getpid()  # of the import; a forked child has another


def threads_for_rows(rows: int) -> int:
    """One thread for every `ROWS_PER_THREAD` rows that are computed at once, at least one."""
    return max(1, rows // ROWS_PER_THREAD)


@contextmanager
def limit_threads(threads: int) -> Iterator[None]:
    """Let torch use at most `threads` threads inside the block; in a forked child, one.

    torch's threads do not survive a fork: if the parent process has used several, a child that uses several waits for
    ever (pytorch/pytorch#17199). With one thread, work inside the block also leaves the parent safe to fork.

    A thread of the program that uses torch for the first time during the block keeps the smaller number.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(min(threads, before) if os.getpid() == _PROCESS else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def thread_limited(method: Method) -> Method:
    """Run a method with the torch threads that its object's attribute `threads` allows, at most."""

    @wraps(method)
    def limited(self: Any, *args: Any, **kwargs: Any) -> Any:
        with limit_threads(self.threads):
            return method(self, *args, **kwargs)

    return cast(Method, limited)
