"""Configure the C library to keep freed memory. This module imports no other module of the package.

Training allocates and frees arrays of several megabytes thousands of times. By default glibc returns each of them to
the system and requests new pages, which the kernel must fault in and zero. Page faults are expensive on virtual
machines: they took two thirds of the time of a PPO update (9.3 s with, 3.4 s without; docs/benchmarks.md).
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # from malloc.h


def keep_freed_memory() -> bool:
    """Make this process keep freed memory for reuse. Its resident size then stays at its peak. Call it early.

    Returns:
        Whether the setting was accepted (only by glibc on Linux).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    accepted = mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1) and mallopt(_M_TOP_PAD, 64 * 2**20)
    return bool(accepted)
