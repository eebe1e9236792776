"""Clean-up of the processes that environments start.

An environment whose class starts processes of its own names a process manager: a module with the functions of
`ProcessManager`. A run (a recording, a training) sets its token in each of its processes and sweeps when it starts
and when it ends, so that processes of a killed run do not survive the next one.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol


class ProcessManager(Protocol):
    """Functions of a process manager."""

    def set_run(self, token: str, records_dir: str | Path | None = None) -> None:
        """Set the run of this process. Call it before the first environment is made.

        Args:
            token: a text without spaces, unique to the run; all processes of one run share it.
            records_dir: an existing folder of the run for records that `sweep` reads.
        """

    def sweep(self, token: str, records_dir: str | Path | None = None) -> Any:
        """Stop processes of a run whose owner is dead, and remove their files.

        Args:
            token: the run's token.
            records_dir: the folder that was given to `set_run`.
        """


class _NoProcesses:
    """The manager of environments that start no processes."""

    def set_run(self, token: str, records_dir: str | Path | None = None) -> None:
        pass

    def sweep(self, token: str, records_dir: str | Path | None = None) -> None:
        pass


def load_process_manager(module: str) -> ProcessManager:
    """Import a process manager.

    Args:
        module: `PixelEnv.process_manager` of the environment, "package.module"; "" for no processes.

    Returns:
        The module, or a manager without effect.
    """
    manager: Any = importlib.import_module(module) if module else _NoProcesses()
    return manager
