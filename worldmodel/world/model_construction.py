"""Construction of models whose sizes come from a config.json that may have been edited."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from worldmodel.common.errors import UserError
from worldmodel.common.torch_state import isolated_torch_state

SIZED = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)
FACTOR, SLACK = 4, 2**22  # numbers beyond those of the weights: temporary tensors and buffers that are not stored


@contextmanager
def stored_model(path: Path, weights: Mapping[str, Tensor], has_checksum: bool) -> Iterator[None]:
    """The context in which a model is constructed from a directory: torch's global state neither matters nor changes.

    Args:
        path: the directory.
        weights: the state dict that the model will load.
        has_checksum: whether the config is known to be as it was written. If not, sizes that need more memory than
            the weights are refused before they are allocated.

    Raises:
        UserError: the config describes a model that cannot be constructed.
    """
    limit = nullcontext() if has_checksum else AllocationLimit(weights)
    try:
        with isolated_torch_state(), limit:
            yield
    except UserError as error:
        raise UserError(f"{path}/config.json: {error}") from error


class AllocationLimit(TorchFunctionMode):
    """A context in which the tensors created may not have many more numbers than a state dict has.

    Args:
        weights: the state dict.

    Raises:
        UserError: a constructor asks for more.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.stored = sum(tensor.numel() for tensor in weights.values())
        self.remaining = FACTOR * self.stored + SLACK

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count what a function that creates a tensor allocates, then call it."""
        kwargs = kwargs or {}
        if func in SIZED:
            size = kwargs.get("size", args[0] if args and not isinstance(args[0], int) else args)
            self.remaining -= math.prod(size)
            if self.remaining < 0:
                raise UserError(
                    f"it describes a larger model than the {self.stored} numbers of its weights; copy the directory "
                    "again."
                )
        return func(*args, **kwargs)
