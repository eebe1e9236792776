"""torch's global settings: work that neither depends on them nor changes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from worldmodel.common.threads import limit_threads


@contextmanager
def fixed_torch_state() -> Iterator[None]:
    """Inside the block: default dtype float32, default device CPU, no inference mode, one thread.

    Afterwards all of these, and the state of the CPU generator, are what they were. Also usable as a decorator.
    """
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), limit_threads(1), torch.inference_mode(False), torch.device("cpu"):
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
