"""Device, dtype, threads and processes of a training or evaluation: the only module that chooses them."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from worldmodel.common.errors import UserError
from worldmodel.common.memory import keep_freed_memory
from worldmodel.common.processes import process, sum_over_processes


@dataclass(frozen=True)
class Runtime:
    """Where and how training computes.

    Attributes:
        device: the CPU or CUDA device of this process.
        dtype: of matrix products; float32 on a CPU, where bfloat16 is about a hundred times slower.
    """

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[None]:
        """The autocast context for computing a loss."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    @property
    def is_main(self) -> bool:
        """Whether this process has rank 0, the only one that writes files."""
        return process()[0] == 0

    @contextmanager
    def main_first(self) -> Iterator[bool]:
        """Run the block in the main process first, then in the others; yields whether this is the main one."""
        if not self.is_main:
            self._wait()
        yield self.is_main
        if self.is_main:
            self._wait()

    def agree(self, number: int) -> int:
        """Broadcast the main process's number to all processes. Collective: every process must call it."""
        value = torch.tensor(number if self.is_main else 0, dtype=torch.int64, device=self.device)
        return int(sum_over_processes(value))

    def average(self, model: nn.Module, figures: dict[str, Tensor]) -> dict[str, Tensor]:
        """Average gradients and metrics over the processes, with one all-reduce of one buffer.

        Args:
            model: its gradients are replaced by their means. The same parameters must have a gradient in every
                process.
            figures: scalar metrics.

        Returns:
            The averaged metrics, detached.
        """
        figures = {name: value.detach() for name, value in figures.items()}
        num_processes = process()[1]
        if num_processes == 1:
            return figures
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        values = [value.float().reshape(1) for value in figures.values()]
        buffer = torch.cat([g.reshape(-1) for g in gradients] + values)
        dist.all_reduce(buffer)
        buffer /= num_processes
        pieces = buffer.split([g.numel() for g in gradients] + [1] * len(values))
        for gradient, piece in zip(gradients, pieces, strict=False):
            gradient.copy_(piece.view_as(gradient))
        return dict(zip(figures, (piece[0] for piece in pieces[len(gradients) :]), strict=True))

    def _wait(self) -> None:
        if process()[1] > 1:
            dist.barrier()


def choose_runtime(device: str = "auto", threads: int | None = None) -> Runtime:
    """Choose the runtime once, at the start of a command; under torchrun also join the process group.

    Several processes share one batch: `torchrun --nproc-per-node 2 -m worldmodel train world ...`. On GPUs each
    process takes the GPU of its local rank.

    Args:
        device: "auto", "cpu" or "cuda".
        threads: number of torch threads on the CPU; None keeps torch's default.

    Raises:
        UserError: an unknown device, CUDA without a CUDA device, or more processes than GPUs.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={device!r}: wanted auto, cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: torch finds no CUDA device here; use --device cpu.")
    if threads is not None:
        torch.set_num_threads(threads)
    distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1  # set by torchrun
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        index = int(os.environ.get("LOCAL_RANK", "0")) if distributed else torch.cuda.current_device()
        if index >= torch.cuda.device_count():
            raise UserError(
                f"process {index} of this machine has no GPU: there are {torch.cuda.device_count()}. "
                "Start at most one process per GPU."
            )
        torch.cuda.set_device(index)
        _join_process_group("nccl", distributed)
        return Runtime(torch.device("cuda", index), torch.bfloat16)
    keep_freed_memory()
    _join_process_group("gloo", distributed)
    return Runtime(torch.device("cpu"), torch.float32)


def _join_process_group(backend: str, distributed: bool) -> None:
    if distributed and not dist.is_initialized():
        dist.init_process_group(backend)
        atexit.register(dist.destroy_process_group)
