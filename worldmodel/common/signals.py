"""Handling of SIGTERM."""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn


def exit_on_sigterm() -> None:
    """On SIGTERM raise SystemExit(143), so that this process runs its clean-up. Call it in the main thread."""

    def stop(signum: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, stop)
