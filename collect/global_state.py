"""Global state of random, numpy and torch, which Stable-Baselines3 changes: kept for the rest of the program."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from worldmodel.common.torch_state import isolated_torch_state


@contextmanager
def preserved_global_state(num_threads: int = 1) -> Iterator[None]:
    """Run a block of Stable-Baselines3 with few torch threads and torch's own defaults, and restore everything after.

    Restored are the number of torch threads, the generators of `random` and numpy, and what `isolated_torch_state`
    restores. Inside, the generators continue from their present state; Stable-Baselines3 seeds them.

    Args:
        num_threads: torch threads. With environment processes on two cores, one is three to six times faster than two.
    """
    threads = torch.get_num_threads()
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 (the global generator is meant)
    torch.set_num_threads(num_threads)
    try:
        with isolated_torch_state():
            yield
    finally:
        torch.set_num_threads(threads)
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


class EpisodeGenerator:
    """A torch generator per episode for code that samples from torch's global generator.

    Inside `active()` the global generator has the state of this one; afterwards it is restored.

    Args:
        device: of the samples. On CUDA the generator of the device is replaced, on the CPU that of the CPU.
        num_threads: torch threads inside `active()`; None leaves them.
    """

    def __init__(self, device: torch.device, num_threads: int | None = None) -> None:
        self.device, self.num_threads = device, num_threads
        self._state = torch.Generator(device).get_state()

    def seed(self, seed: int) -> None:
        """Start an episode."""
        self._state = torch.Generator(self.device).manual_seed(seed).get_state()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Replace the global generator, and limit the threads, for one prediction."""
        cuda = self.device.type == "cuda"
        before = torch.cuda.get_rng_state(self.device) if cuda else torch.get_rng_state()
        threads = torch.get_num_threads()
        self._set(self._state)
        if self.num_threads is not None:
            torch.set_num_threads(self.num_threads)
        try:
            yield
        finally:
            self._state = torch.cuda.get_rng_state(self.device) if cuda else torch.get_rng_state()
            self._set(before)
            if self.num_threads is not None:
                torch.set_num_threads(threads)

    def _set(self, state: torch.Tensor) -> None:
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state, self.device)
        else:
            torch.set_rng_state(state)
