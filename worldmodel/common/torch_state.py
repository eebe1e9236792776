"""Protection from torch's global state: the default dtype, inference mode, and the CPU's random generator.

A user's program may have changed the default dtype or be inside `torch.inference_mode`. Models are built and loaded
the same in every program, and loading one does not change the program's random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def default_torch_modes() -> Iterator[None]:
    """Inside, new tensors are as in a fresh program: float32 by default, and no inference tensors.

    It can decorate a function, e.g. a model's constructor: its parameters can then be trained wherever it was built.
    The random generators are not touched.
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                yield
        else:
            yield
    finally:
        torch.set_default_dtype(dtype)


@contextmanager
def isolated_torch_state() -> Iterator[None]:
    """As `default_torch_modes`; besides, the CPU's random generator is restored afterwards."""
    with torch.random.fork_rng(devices=()), default_torch_modes():
        yield
