"""Python processes that this package starts.

They import from the same places as this process. In particular the current folder is not one of them, unless it is in
`sys.path` here: `python -m` and `python -c` put it first, and there a file random.py would replace the standard module.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.context import ForkServerContext


def module_command(module: str) -> list[str]:
    """The command that runs a module in a new Python process, without the current folder in `sys.path`."""
    return [sys.executable, "-P", "-m", module]


def python_environment() -> dict[str, str]:
    """Environment variables for a new Python process: those of this process, with its `sys.path`."""
    folders = [folder or os.getcwd() for folder in sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "PYTHONSAFEPATH": "1"}


def start_forkserver(preload: Sequence[str] | None = None) -> ForkServerContext:
    """Start the fork server of `multiprocessing`, unless it runs already.

    Args:
        preload: modules that the server imports once for all its processes; None keeps the default.

    Returns:
        The context, for `ProcessPoolExecutor(mp_context=...)`.
    """
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    if preload is not None:
        context.set_forkserver_preload(list(preload))
    with _environment(python_environment()):
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables temporarily."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
