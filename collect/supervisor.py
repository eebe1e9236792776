"""Record in several processes: assign episodes to workers, and replace workers that die."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from worldmodel.common.errors import UserError
from worldmodel.common.subprocesses import module_command, python_environment

MAX_TRIES = 3  # deaths of a worker in one episode, or before its first message, until the recording fails


@dataclass
class Worker:
    """A running worker process and the supervisor's ends of its pipes."""

    slot: int
    process: subprocess.Popen[bytes]
    commands: int
    results: int
    log: Path
    buffer: bytes = b""
    index: int | None = None  # the episode in progress
    ready: bool = False


class Supervisor:
    """Runs workers until every episode is recorded.

    Args:
        job: the pickled job file that workers read.
        folder: the recording's working folder (part files, logs).
        num_workers: number of processes.
        sweep: called after a worker died, to remove what it left behind.
    """

    def __init__(self, job: Path, folder: Path, num_workers: int, sweep: Callable[[], object]) -> None:
        self.job, self.folder, self.num_workers, self.sweep = job, folder, num_workers, sweep
        self.selector = selectors.DefaultSelector()
        self.workers: dict[int, Worker] = {}
        self.tries: dict[int, int] = {}
        self.failed_starts = 0

    def run(self, indices: Iterable[int], on_done: Callable[[int, int], None]) -> None:
        """Record the given episodes.

        Args:
            indices: episode numbers.
            on_done: called with (index, steps) for every finished one.

        Raises:
            UserError: a worker reported a user error or a full disk.
            RuntimeError: workers died MAX_TRIES times; the end of the log is in the message.
        """
        waiting = deque(indices)
        try:
            for slot in range(min(self.num_workers, len(waiting))):
                self._start(slot)
            while self.workers:
                for key, _ in self.selector.select(timeout=1.0):
                    worker: Worker = key.data
                    data = os.read(worker.results, 65536)
                    if not data:
                        self._handle_exit(worker, waiting)
                        continue
                    *lines, worker.buffer = (worker.buffer + data).split(b"\n")
                    for line in lines:
                        self._handle_message(worker, json.loads(line), waiting, on_done)
        finally:
            self._stop()

    def _start(self, slot: int) -> None:
        commands_read, commands_write = os.pipe()
        results_read, results_write = os.pipe()
        log = self.folder / f"worker-{slot}.log"
        arguments = [str(self.job), str(slot), str(commands_read), str(results_write)]
        with log.open("ab") as stream:
            process = subprocess.Popen(
                [*module_command("worldmodel.collect.worker"), *arguments],
                pass_fds=(commands_read, results_write),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,  # a file, not a pipe: an orphaned child of the worker would keep a pipe open
                start_new_session=True,  # its process group includes its children; Ctrl-C reaches the supervisor only
                env={**python_environment(), "OMP_NUM_THREADS": "1"},
            )
        os.close(commands_read)
        os.close(results_write)
        worker = Worker(slot, process, commands_write, results_read, log)
        self.workers[slot] = worker
        self.selector.register(results_read, selectors.EVENT_READ, worker)

    def _handle_message(
        self,
        worker: Worker,
        message: dict[str, object],
        waiting: deque[int],
        on_done: Callable[[int, int], None],
    ) -> None:
        if "error" in message:
            raise UserError(str(message["error"]))
        if "done" in message:
            worker.index = None
            on_done(int(str(message["done"])), int(str(message["steps"])))
        worker.ready = True
        self.failed_starts = 0
        self._assign_episode(worker, waiting)

    def _assign_episode(self, worker: Worker, waiting: deque[int]) -> None:
        if waiting:
            worker.index = waiting.popleft()
            with contextlib.suppress(BrokenPipeError):  # it died; `run` handles the exit when it reads the results
                os.write(worker.commands, f"{worker.index}\n".encode())
        elif worker.commands >= 0:
            os.close(worker.commands)
            worker.commands = -1

    def _handle_exit(self, worker: Worker, waiting: deque[int]) -> None:
        """Handle a closed pipe of results: replace the worker unless it had finished its episodes."""
        self.selector.unregister(worker.results)
        os.close(worker.results)
        if worker.commands >= 0:
            os.close(worker.commands)
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(10)
        del self.workers[worker.slot]
        if worker.index is None and worker.ready:
            return
        _kill_group(worker.process.pid)
        self.sweep()
        if worker.index is not None:
            self.tries[worker.index] = self.tries.get(worker.index, 0) + 1
            waiting.appendleft(worker.index)
        else:
            self.failed_starts += 1
        where = f"in episode {worker.index}" if worker.index is not None else "before it was ready"
        if self.failed_starts >= MAX_TRIES or max(self.tries.values(), default=0) >= MAX_TRIES:
            tail = worker.log.read_text(errors="replace").strip().splitlines()[-12:]
            raise RuntimeError(
                f"a recording process died {MAX_TRIES} times {where} (exit {worker.process.returncode}). "
                f"The end of {worker.log}:\n" + "\n".join(tail)
            )
        code = worker.process.returncode
        print(f"\nrecording process {worker.slot} died (exit {code}) {where}; it is restarted.", file=sys.stderr)
        self._start(worker.slot)

    def _stop(self) -> None:
        """Stop the remaining workers, by SIGTERM, then by SIGKILL to their process groups."""
        for worker in self.workers.values():
            if worker.commands >= 0:
                os.close(worker.commands)
            with contextlib.suppress(ProcessLookupError):
                worker.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 5
        for worker in self.workers.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.1, deadline - time.monotonic()))
            _kill_group(worker.process.pid)
            worker.process.wait()
            os.close(worker.results)
        interrupted = bool(self.workers)
        self.workers.clear()
        self.selector.close()
        if interrupted:
            self.sweep()


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
