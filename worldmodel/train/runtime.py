"""The one place that decides device, number format and threads."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from worldmodel.errors import UserError
from worldmodel.memory import keep_freed_memory


@dataclass(frozen=True)
class Runtime:
    """Where and how training computes.

    Attributes:
        device: "cpu" or "cuda".
        dtype: of matrix products; float32 on a CPU, where bfloat16 is some hundred times slower.
    """

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[None]:
        """The context that a loss is computed in."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def choose_runtime(device: str = "auto", threads: int | None = None) -> Runtime:
    """Decide once, at the start of a command.

    Args:
        device: "auto", "cpu" or "cuda".
        threads: torch's threads on the CPU; None leaves torch's own choice.

    Raises:
        UserError: an unknown device, or CUDA where there is none.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={device!r}: wanted auto, cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: torch finds no CUDA device here; use --device cpu.")
    if threads is not None:
        torch.set_num_threads(threads)
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        return Runtime(torch.device("cuda"), torch.bfloat16)
    keep_freed_memory()
    return Runtime(torch.device("cpu"), torch.float32)
