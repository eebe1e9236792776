"""What a model must know of the processes that train it together: which part is ours, and the sum over all.

A leaf; `train.runtime` alone begins and ends them. In all processes the same functions are called in the same
order, or they wait for each other for ever.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def process() -> tuple[int, int]:
    """Rank of this process and number of processes that train together; (0, 1) outside torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def process_rows(count: int) -> slice:
    """Which of `count` rows of a batch that every process holds are this one's: consecutive, as even as can be."""
    rank, num_processes = process()
    return slice(rank * count // num_processes, (rank + 1) * count // num_processes)


def seed_by_rank() -> None:
    """From here to the next seeding each process draws random numbers of its own; the first one's stay as they were."""
    rank, _ = process()
    if rank:
        torch.manual_seed(torch.initial_seed() + rank)


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes, in every one of them; no gradient. To be called by all at once."""
    if process()[1] == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values


def process_weight(count: Tensor | int, device: torch.device) -> Tensor | float:
    """What this process's mean of `count` numbers is worth, so that the mean over processes is that of all numbers.

    Gradients and figures that are averaged over processes are then those of the whole batch, however its valid
    frames are spread.
    """
    num_processes = process()[1]
    if num_processes == 1:
        return 1.0
    here = torch.as_tensor(count, dtype=torch.float32, device=device)
    return here * num_processes / sum_over_processes(here).clamp_min(1)
