"""Status lines and progress bars on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def print_status(line: str) -> None:
    """Print a line on stderr, at once."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int, dict[str, float]], None]]:
    """One bar for each stage of a training or an evaluation.

    Yields:
        A function of (stage, steps done, steps in all or 0, figures to show).
    """
    from tqdm import tqdm

    bars: dict[str, Any] = {}

    def progress(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        bar = bars.get(stage)
        if bar is None:
            for earlier in bars.values():
                earlier.close()
            bar = bars[stage] = tqdm(desc=stage, unit="step")
        bar.total = total or None
        bar.n = done
        bar.set_postfix({k: f"{v:.3g}" for k, v in list(figures.items())[:4]}, refresh=False)
        bar.refresh()

    try:
        yield progress
    finally:
        for bar in bars.values():
            bar.close()


@contextmanager
def measurement_bar() -> Iterator[Callable[[int, int], None]]:
    """One bar for the measurements of a benchmark.

    Yields:
        A function of (measurements done, measurements in all).
    """
    from tqdm import tqdm

    with tqdm(unit="measurement") as bar:

        def progress(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        yield progress
