"""Telling the C library to keep freed memory. A leaf.

Training allocates and frees arrays of some megabytes thousands of times. By default glibc gives each back to the
system and gets fresh pages, which must be faulted in and zeroed: on virtual machines, where a fault is dear, that took
two thirds of the time of a PPO update (9.3 s with, 3.4 s without; docs/speed.md).
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # from malloc.h


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, for reuse; its peak stays its size. Call it before the heavy work.

    Returns:
        Whether the C library took it (glibc on Linux).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    done = mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1) and mallopt(_M_TOP_PAD, 64 * 2**20)
    return bool(done)
