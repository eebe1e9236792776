"""Data-parallel training: the rank of this process, its rows of a batch, and sums over all processes.

`worldmodel.common.runtime` starts and ends the process group. The collective functions must be called in the same
order in every process; otherwise the processes wait for each other for ever.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def process() -> tuple[int, int]:
    """Rank of this process and number of processes; (0, 1) outside torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def process_rows(count: int) -> slice:
    """The rows of a batch of `count` that this process computes: consecutive, split as evenly as possible."""
    rank, num_processes = process()
    return slice(rank * count // num_processes, (rank + 1) * count // num_processes)


def seed_by_rank() -> None:
    """Give each process different random numbers until torch is seeded again; those of rank 0 do not change."""
    rank, _ = process()
    if rank:
        torch.manual_seed(torch.initial_seed() + rank)


def sum_over_processes(values: Tensor) -> Tensor:
    """Sum a tensor over all processes, without gradient. Collective: every process must call it."""
    if process()[1] == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values


def process_weight(count: Tensor | int, device: torch.device) -> Tensor | float:
    """The weight of this process's mean over `count` numbers, so that the mean over processes is the mean of all.

    Gradients and metrics that are averaged over processes then equal those of the whole batch, however its valid
    frames are distributed. Collective: every process must call it.
    """
    num_processes = process()[1]
    if num_processes == 1:
        return 1.0
    local_count = torch.as_tensor(count, dtype=torch.float32, device=device)
    return local_count * num_processes / sum_over_processes(local_count).clamp_min(1)
