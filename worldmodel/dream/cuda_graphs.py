"""A step of all rows recorded once and replayed as one launch: on a GPU, a CUDA graph.

A step of a dream is hundreds of small kernels; started one by one they can cost more than they compute (how much is not
measured yet). A recording reads from and writes to tensors of its own that never move: what is handed in is copied to
them, unless it is them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

State = TypeVar("State")
Out = TypeVar("Out")
Record = Callable[[Callable[[], None]], Callable[[], None]]
WARMUP = 3  # steps before the recording: kernels are chosen and memory is found in them


class CapturedStep(Generic[State, Out]):
    """A function (state, actions) -> (state, what happened), recorded for inputs of one shape.

    The state that a call returns lives in the recording's tensors and is used up by the next call; what happened is
    the caller's own. Neither the function nor a recorded call may wait for the device.

    Args:
        step: the function. It may write to its state.
        state: an example, nested dataclasses of tensors; it is not written to.
        actions: an example.
        record: turns a function that writes into fixed tensors into one that does the same again; `cuda_graph`.
    """

    def __init__(
        self,
        step: Callable[[State, Tensor], tuple[State, Out]],
        state: State,
        actions: Tensor,
        record: Record,
    ) -> None:
        self._state, self._actions = mapped(torch.clone, state), actions.clone()
        self._out: Any = None

        def once() -> None:
            after, out = step(self._state, self._actions)
            if self._out is None:
                self._out = mapped(torch.clone, out)
            overwrite(self._out, out)
            overwrite(self._state, after)

        for _ in range(WARMUP):
            once()
        self._replay = record(once)

    def __call__(self, state: State, actions: Tensor) -> tuple[State, Out]:
        """Take a step: the state after it, and what happened."""
        overwrite(self._state, state)
        overwrite(self._actions, actions)
        self._replay()
        return self._state, mapped(torch.clone, self._out)


def cuda_graph(work: Callable[[], None]) -> Callable[[], None]:
    """Record what a function does on the GPU; the result does it again, on the same tensors."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def leaves(value: Any) -> list[Tensor]:
    """The tensors of nested dataclasses, in order."""
    if isinstance(value, Tensor):
        return [value]
    assert is_dataclass(value), type(value)
    return [leaf for field in fields(value) for leaf in leaves(getattr(value, field.name))]


def mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same dataclasses of other tensors."""
    if isinstance(value, Tensor):
        return function(value)
    return type(value)(**{field.name: mapped(function, getattr(value, field.name)) for field in fields(value)})


@torch.no_grad()
def overwrite(fixed: Any, given: Any) -> None:
    """Copy the tensors of one value into those of another; what is the same tensor already costs nothing."""
    pairs = [(a, b) for a, b in zip(leaves(fixed), leaves(given), strict=True) if a is not b]
    if pairs:
        torch._foreach_copy_([a for a, _ in pairs], [b for _, b in pairs])
