"""Isolation from torch's global state: what the library builds and trains neither depends on it nor changes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def default_torch_modes() -> Iterator[None]:
    """Inside, new tensors are as in a fresh program: float32 by default, and no inference tensors.

    It can decorate a function, e.g. the constructor of a model, whose parameters can then be trained wherever it was
    built. The generators are not touched.
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
    """Run a block, or a function that it decorates, with torch's own defaults, and restore the caller's state.

    Inside, the default dtype is float32, the default device is the CPU, gradients are on, inference mode and autocast
    are off. Afterwards the default dtype, the generators (of the CPU, and of CUDA devices where they are in use) and
    all modes are as they were before, also when the block raises.

    Example:
        >>> with isolated_torch_state():
        ...     world = WorldModel(tokenizer, prior, spec)
    """
    dtype, random_state = torch.get_default_dtype(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    torch.set_default_dtype(torch.float32)
    # only where it is needed: a default device slows every call of torch down
    on_cpu = nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")
    try:
        with (
            on_cpu,
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
        ):
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_rng_state(random_state)
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)
