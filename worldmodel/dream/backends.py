"""What steps a world: torch, or onnxruntime on an export of it.

Shapes: B rows, n some of them, h w code grid, A action size; those of a flat state are in `plain.rows`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldmodel.common.errors import UserError, unknown_name
from worldmodel.onnx.export import exported, own_export
from worldmodel.onnx.onnx_state import NumpyContext, NumpyFlatState
from worldmodel.onnx.onnx_world import EXTRA, OnnxWorld
from worldmodel.prior.context import Context
from worldmodel.prior.interface import PriorStep
from worldmodel.prior.sampling import Sampling
from worldmodel.prior.state_rows import StateRows
from worldmodel.world.world_model import WorldModel

BACKENDS = ("auto", "torch", "onnx")


class Backend(ABC):
    """What a simulator asks of a world."""

    @abstractmethod
    def init_state(self, context: Context) -> StateRows:
        """What is remembered after a context of real frames."""

    @abstractmethod
    def step(self, state: Any, actions: Tensor, draws: Tensor, sampling: Sampling) -> PriorStep[Any]:
        """Take one step in every row, as `Prior.step`."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Frames of codes: (n, h, w) -> (n, H, W, 3) uint8."""


class TorchBackend(Backend):
    """The world's own modules, on its device."""

    def __init__(self, world: WorldModel) -> None:
        self.world = world

    def init_state(self, context: Context) -> StateRows:
        """As `Backend.init_state`."""
        return self.world.prior.init_state(context)

    def step(self, state: Any, actions: Tensor, draws: Tensor, sampling: Sampling) -> PriorStep[Any]:
        """As `Backend.step`."""
        return self.world.prior.step(state, actions, draws, sampling)

    def decode(self, codes: Tensor) -> Tensor:
        """As `Backend.decode`."""
        return self.world.tokenizer.decode(codes[:, None])[:, 0]


@dataclass(frozen=True)
class OnnxFlatState(StateRows):
    """`plain.rows.NumpyFlatState` as tensors."""

    keys: Tensor
    values: Tensor
    seen: Tensor
    codes: Tensor
    summary: Tensor
    status: Tensor
    times: Tensor


class OnnxBackend(Backend):
    """onnxruntime on an export; tensors share their memory with its arrays.

    The weights are those of the export: what is done to the world's afterwards, this engine does not see.

    Args:
        directory: the export.
        threads: of one call.
    """

    def __init__(self, directory: Path, threads: int) -> None:
        self.plain = OnnxWorld(directory, threads)

    def init_state(self, context: Context) -> StateRows:
        """As `Backend.init_state`."""
        return _tensors(self.plain.begin(_arrays(context)))

    def step(self, state: Any, actions: Tensor, draws: Tensor, sampling: Sampling) -> PriorStep[Any]:
        """As `Backend.step`."""
        out = self.plain.step(_arrays(state), actions.numpy(), draws.numpy(), sampling)
        rest = {name: torch.from_numpy(array) for name, array in vars(out).items() if name != "state"}
        return PriorStep(state=_tensors(out.state), **rest)

    def decode(self, codes: Tensor) -> Tensor:
        """As `Backend.decode`."""
        return torch.from_numpy(self.plain.decode(codes.numpy()))


def choose_backend(world: WorldModel, backend: str, dtype: torch.dtype, batch_invariant: bool, threads: int) -> Backend:
    """The engine that a backend's name stands for.

    Args:
        world: the world.
        backend: "torch"; "onnx", onnxruntime on the export that the world's directory carries, or on one made now and
            kept for the next time; "auto", onnxruntime where that export is carried, fits the weights, and the rest
            allows it (on a CPU, float32, not batch_invariant, onnxruntime installed), else torch.
        dtype: of matrix products.
        batch_invariant: whether the rows are run in tiles.
        threads: onnxruntime's, of one call; at most torch's own number.

    Raises:
        UserError: an unknown backend, or "onnx" for what it cannot do or without its packages.
    """
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    fits = world.device.type == "cpu" and dtype == torch.float32
    if backend == "onnx":
        if not fits:
            raise UserError(
                f"backend='onnx' steps on the CPU in float32; this world is on {world.device} and its products in "
                f"{dtype}. Load it on the CPU, or take backend='torch'."
            )
        if find_spec("onnxruntime") is None:
            raise UserError(f"backend='onnx' needs onnxruntime, which is not installed: {EXTRA}")
        return OnnxBackend(exported(world), min(threads, torch.get_num_threads()))
    if backend == "auto" and fits and not batch_invariant and find_spec("onnxruntime") is not None:
        carried = own_export(world)
        if carried is not None:
            return OnnxBackend(carried, min(threads, torch.get_num_threads()))
    return TorchBackend(world)


def _arrays(state: StateRows) -> Any:
    """A state's tensors as arrays of the same memory."""
    kind = NumpyContext if isinstance(state, Context) else NumpyFlatState
    return kind(**{name: tensor.numpy() for name, tensor in vars(state).items()})


def _tensors(state: Any) -> StateRows:
    """The inverse of `_arrays`."""
    kind: Any = Context if isinstance(state, NumpyContext) else OnnxFlatState
    return kind(**{name: torch.from_numpy(array) for name, array in vars(state).items()})
