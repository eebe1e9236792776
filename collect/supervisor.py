"""Recording in several processes: hands out episode numbers, replaces workers that die, cleans up after them."""

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

MAX_TRIES = 3  # deaths of a worker over one episode, or before its first answer, until we give up


@dataclass
class Worker:
    """A running process with the pipe ends that the supervisor keeps."""

    slot: int
    process: subprocess.Popen[bytes]
    commands: int
    results: int
    log: Path
    buffer: bytes = b""
    index: int | None = None  # the episode in progress
    ready: bool = False


class Supervisor:
    """Runs workers until every index is recorded.

    Args:
        job: the pickled job file that workers read.
        folder: the recording's working folder (part files, logs).
        num_workers: processes.
        sweep: called after a worker died, to clean up its engine.
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
            UserError: a worker reported a mistake or a full disk.
            RuntimeError: workers died again and again; the end of the log is in the message.
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
                        self._died(worker, waiting)
                        continue
                    *lines, worker.buffer = (worker.buffer + data).split(b"\n")
                    for line in lines:
                        self._answer(worker, json.loads(line), waiting, on_done)
        finally:
            self._stop()

    def _start(self, slot: int) -> None:
        commands_read, commands_write = os.pipe()
        results_read, results_write = os.pipe()
        log = self.folder / f"worker-{slot}.log"
        arguments = [str(self.job), str(slot), str(commands_read), str(results_write)]
        with log.open("ab") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "worldmodel.collect.worker", *arguments],
                pass_fds=(commands_read, results_write),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,  # a file, never a pipe: an orphaned engine would hold a pipe open
                start_new_session=True,  # its group holds its engine; Ctrl-C reaches the supervisor alone
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": "1",
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                },
            )
        os.close(commands_read)
        os.close(results_write)
        worker = Worker(slot, process, commands_write, results_read, log)
        self.workers[slot] = worker
        self.selector.register(results_read, selectors.EVENT_READ, worker)

    def _answer(
        self,
        worker: Worker,
        message: dict[str, object],
        waiting: deque[int],
        on_done: Callable[[int, int], None],
    ) -> None:
        if "mistake" in message:
            raise UserError(str(message["mistake"]))
        if "done" in message:
            worker.index = None
            on_done(int(str(message["done"])), int(str(message["steps"])))
        worker.ready = True
        self.failed_starts = 0
        self._hand_out(worker, waiting)

    def _hand_out(self, worker: Worker, waiting: deque[int]) -> None:
        if waiting:
            worker.index = waiting.popleft()
            with contextlib.suppress(BrokenPipeError):  # it died; reading its results will say so
                os.write(worker.commands, f"{worker.index}\n".encode())
        elif worker.commands >= 0:
            os.close(worker.commands)
            worker.commands = -1

    def _died(self, worker: Worker, waiting: deque[int]) -> None:
        """A worker's pipe closed: in order when it had nothing left to do, else it is replaced."""
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
        if self.failed_starts >= MAX_TRIES or max(self.tries.values(), default=0) >= MAX_TRIES:
            tail = worker.log.read_text(errors="replace").strip().splitlines()[-12:]
            where = f"over episode {worker.index}" if worker.index is not None else "before it could begin"
            raise RuntimeError(
                f"a recording process died {MAX_TRIES} times {where} (exit {worker.process.returncode}). "
                f"The end of {worker.log}:\n" + "\n".join(tail)
            )
        doing = f"while it played episode {worker.index}" if worker.index is not None else "before it was ready"
        code = worker.process.returncode
        print(f"\nrecording process {worker.slot} died (exit {code}) {doing}; it is started again.", file=sys.stderr)
        self._start(worker.slot)

    def _stop(self) -> None:
        """End what still runs: first asked, then forced; engines are in the workers' process groups."""
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
        crashed = bool(self.workers)
        self.workers.clear()
        self.selector.close()
        if crashed:
            self.sweep()


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
