"""What computes a world's step: torch, or onnxruntime on an export of the world.

Shapes: B rows, n some of them, H W pixels, h w code grid, A action size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.common.errors import UserError, unknown_name
from worldmodel.onnx.export import carried_export, find_or_make_export
from worldmodel.onnx.onnx_state import NumpyContext, NumpyRows
from worldmodel.onnx.onnx_world import INSTALL, OnnxWorld
from worldmodel.onnx.prior_export import export_class
from worldmodel.prior.context import Context
from worldmodel.prior.sampling import Sampling
from worldmodel.prior.state_rows import StateRows
from worldmodel.prior.step_template import PriorStep
from worldmodel.tokenizer import StreamState
from worldmodel.world.world_model import WorldModel

BACKENDS = ("auto", "torch", "onnx")


@dataclass(frozen=True)
class DecodedFrames:
    """The next frames of n sequences.

    Attributes:
        frames: (n, H, W, 3) uint8.
        state: n rows of the decoder's state after them; None for a tokenizer of single frames.
    """

    frames: Tensor
    state: StreamState | None


class Backend(ABC):
    """The functions of a world that a simulator calls."""

    @abstractmethod
    def init_state(self, context: Context) -> StateRows:
        """The prior's state after a context of frames."""

    @abstractmethod
    def step(self, state: Any, actions: Tensor, uniforms: Tensor, sampling: Sampling) -> PriorStep[Any, Tensor]:
        """Take one step in every row, as `Prior.step`."""

    @abstractmethod
    def decode(self, codes: Tensor, state: StreamState | None) -> DecodedFrames:
        """The next frame of n sequences.

        Args:
            codes: (n, h, w).
            state: n rows of the decoder's state, as `Tokenizer.decode_next`.
        """


class TorchBackend(Backend):
    """The world's own modules, on its device."""

    def __init__(self, world: WorldModel) -> None:
        self.world = world

    def init_state(self, context: Context) -> StateRows:
        """As `Backend.init_state`."""
        return self.world.prior.init_state(context)

    def step(self, state: Any, actions: Tensor, uniforms: Tensor, sampling: Sampling) -> PriorStep[Any, Tensor]:
        """As `Backend.step`."""
        return self.world.prior.step(state, actions, uniforms, sampling)

    def decode(self, codes: Tensor, state: StreamState | None) -> DecodedFrames:
        """As `Backend.decode`."""
        frames, state = self.world.tokenizer.decode_next(codes[:, None], state)
        return DecodedFrames(frames[:, 0], state)


class OnnxBackend(Backend):
    """onnxruntime on an export; tensors share their memory with its arrays.

    The weights are those of the export. Later changes of the world's weights have no effect here.

    Args:
        directory: the export.
        threads: of one call.
    """

    def __init__(self, directory: Path, threads: int) -> None:
        self.onnx_world = OnnxWorld(directory, threads)
        self.state_type = export_class(self.onnx_world.prior.facts["kind"]).state_type  # of tensors

    def init_state(self, context: Context) -> StateRows:
        """As `Backend.init_state`."""
        return self._to_torch(self.onnx_world.prior.init_state(NumpyContext(**_arrays(context))))

    def step(self, state: Any, actions: Tensor, uniforms: Tensor, sampling: Sampling) -> PriorStep[Any, Tensor]:
        """As `Backend.step`."""
        prior = self.onnx_world.prior
        out = prior.step(prior.state_type(**_arrays(state)), actions.numpy(), uniforms.numpy(), sampling)
        results = {name: torch.from_numpy(array) for name, array in vars(out).items() if name != "state"}
        return PriorStep(state=self._to_torch(out.state), **results)

    def decode(self, codes: Tensor, state: StreamState | None) -> DecodedFrames:
        """As `Backend.decode`."""
        return DecodedFrames(torch.from_numpy(self.onnx_world.decode(codes.numpy())), None)

    def _to_torch(self, state: NumpyRows) -> StateRows:
        """A state as tensors that share its memory."""
        return self.state_type(**{name: torch.from_numpy(array) for name, array in vars(state).items()})


def choose_backend(world: WorldModel, backend: str, dtype: torch.dtype, batch_invariant: bool, threads: int) -> Backend:
    """Make the backend of a name.

    Args:
        world: the world.
        backend: "torch"; "onnx", onnxruntime on the export in the world's directory, or on one that is made now and
            kept in a cache; "auto", onnxruntime if the directory has an export of the current weights and the other
            arguments allow it (on a CPU, float32, not batch_invariant, onnxruntime installed), else torch.
        dtype: of matrix products.
        batch_invariant: whether the rows are computed in tiles.
        threads: onnxruntime's, of one call; at most torch's own number.

    Raises:
        UserError: an unknown backend, or "onnx" for what it cannot do or without its packages.
    """
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    supported = world.device.type == "cpu" and dtype == torch.float32
    threads = min(threads, torch.get_num_threads())
    if backend == "onnx":
        if not supported:
            raise UserError(
                f"backend='onnx' steps on the CPU in float32; this world is on {world.device} and its products in "
                f"{dtype}. Load it on the CPU, or take backend='torch'."
            )
        if find_spec("onnxruntime") is None:
            raise UserError(f"backend='onnx' needs onnxruntime, which is not installed: {INSTALL}")
        return OnnxBackend(find_or_make_export(world), threads)
    if backend == "auto" and supported and not batch_invariant and find_spec("onnxruntime") is not None:
        directory = carried_export(world)
        if directory is not None:
            return OnnxBackend(directory, threads)
    return TorchBackend(world)


def _arrays(state: StateRows) -> dict[str, np.ndarray]:
    """A state's tensors as arrays that share their memory."""
    return {name: tensor.numpy() for name, tensor in vars(state).items()}
