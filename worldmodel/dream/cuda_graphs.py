"""A step of all rows captured once and replayed with one launch: on a GPU, a CUDA graph.

A step of a dream is hundreds of small kernels. Launched one by one, they can cost more time than they compute (not
measured yet). A captured step reads from and writes to static tensors that never move; its inputs are copied to them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from worldmodel.dream.tensor_tree import tree_copy_, tree_map

State = TypeVar("State")
Output = TypeVar("Output")
Capture = Callable[[Callable[[], None]], Callable[[], None]]
WARMUP = 3  # steps before the capture, in which kernels are chosen and memory is allocated


class CapturedStep(Generic[State, Output]):
    """A function (state, actions) -> (state, output), captured for inputs of one shape.

    The state that a call returns is stored in the static tensors: the next call overwrites it. The output is a copy
    that belongs to the caller. The function must not wait for the device.

    Args:
        step: the function. It may write to its state.
        state: an example, nested dataclasses of tensors; it is not written to.
        actions: an example.
        capture: takes a function on static tensors and returns one that does the same again; `capture_cuda_graph`.
    """

    def __init__(
        self,
        step: Callable[[State, Tensor], tuple[State, Output]],
        state: State,
        actions: Tensor,
        capture: Capture,
    ) -> None:
        self._state, self._actions = tree_map(torch.clone, state), actions.clone()
        self._output: Any = None

        def run() -> None:
            new_state, output = step(self._state, self._actions)
            if self._output is None:
                self._output = tree_map(torch.clone, output)
            tree_copy_(self._output, output)
            tree_copy_(self._state, new_state)

        for _ in range(WARMUP):
            run()
        self._replay = capture(run)

    def __call__(self, state: State, actions: Tensor) -> tuple[State, Output]:
        """Take a step: the new state and the output."""
        tree_copy_(self._state, state)
        tree_copy_(self._actions, actions)
        self._replay()
        return self._state, tree_map(torch.clone, self._output)


def capture_cuda_graph(work: Callable[[], None]) -> Callable[[], None]:
    """Capture what a function does on the GPU; the result does it again on the same tensors."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay
