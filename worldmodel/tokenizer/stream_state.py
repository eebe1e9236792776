"""The past of a sequence that is encoded or decoded in parts: what the causal layers keep between the parts.

Shapes: N sequences, n some of them, T steps of codes, D channels, h w a grid of places, M numbers that are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StreamState:
    """The past of N sequences. At the start of a sequence all its numbers are zero.

    Attributes:
        memory: (N, M) float32, the last inputs of all layers with a past, flattened, one layer after another.
        steps: (N,) int64, steps of codes that have passed.
    """

    memory: Tensor
    steps: Tensor

    @staticmethod
    def start(num_rows: int, memory_size: int, device: torch.device) -> StreamState:
        """The state before the first frame: N rows, M numbers each."""
        memory = torch.zeros(num_rows, memory_size, dtype=torch.float32, device=device)
        return StreamState(memory, torch.zeros(num_rows, dtype=torch.int64, device=device))

    def select(self, index: Tensor) -> StreamState:
        """Some rows: (n,) int64 -> n rows."""
        return StreamState(self.memory[index], self.steps[index])

    def scatter(self, index: Tensor, other: StreamState) -> StreamState:
        """Replace rows `index`, (n,) int64, by the n rows of `other`."""
        return StreamState(self.memory.index_copy(0, index, other.memory), self.steps.index_copy(0, index, other.steps))

    def keep_where(self, mask: Tensor, previous: StreamState) -> StreamState:
        """The rows of `previous` where the mask (N,) is True, these rows elsewhere."""
        return StreamState(
            torch.where(mask[:, None], previous.memory, self.memory), torch.where(mask, previous.steps, self.steps)
        )


class Stream:
    """One pass through the causal layers of an encoder or decoder: layers take their past and leave their new one.

    The layers must come in the same order in every pass.

    Args:
        state: the past; None for the start of a sequence.
    """

    def __init__(self, state: StreamState | None) -> None:
        self._state, self._position = state, 0
        self._kept: list[Tensor] = []

    def prepend(self, x: Tensor, count: int) -> Tensor:
        """Put the last `count` inputs of the calling layer before its new ones.

        Args:
            x: (N, D, T, h, w), T >= 1.
            count: number of past steps of x.

        Returns:
            (N, D, count + T, h, w); zeros stand for what would be before the start.
        """
        if not count:
            return x
        num_rows, channels, _, h, w = x.shape
        if self._state is None:
            past = x.new_zeros(num_rows, channels, count, h, w)
        else:
            size = channels * count * h * w
            past = self._state.memory[:, self._position : self._position + size].view(num_rows, channels, count, h, w)
            self._position += size
        extended = torch.cat([past, x], 2)
        self._kept.append(extended[:, :, extended.shape[2] - count :])
        return extended

    def before_start(self, count: int, num_steps: int) -> Tensor:
        """Which of the `count` past and `num_steps` new steps are before the start of their sequence.

        Returns:
            (N, count + num_steps) bool; (1, count + num_steps) where all sequences begin.
        """
        device = self._kept[-1].device
        age = torch.zeros(1, dtype=torch.int64, device=device) if self._state is None else self._state.steps
        return torch.arange(-count, num_steps, device=device) < -age[:, None]

    def next_state(self, num_steps: int) -> StreamState:
        """The state after the pass, for the part of the sequence that follows `num_steps` steps of codes."""
        assert self._state is not None
        assert self._position == self._state.memory.shape[1], "the layers took all of their past"
        memory = torch.cat([self._state.memory[:, :0], *(kept.flatten(1).float() for kept in self._kept)], 1)
        return StreamState(memory, self._state.steps + num_steps)
