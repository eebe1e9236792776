"""How a prior's step is exported: the interface of each kind's export, and what their graphs share.

Shapes: B rows, W frames of a context, h w code grid, P = h*w places, n groups of G places, D width, C condition width,
L decoder layers, F heads of keys and values, d head width, N slots of the cache, M frames of memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel.common.entries import load_entry
from worldmodel.common.errors import UserError
from worldmodel.onnx.group_modules import GroupLogits, GroupWeights
from worldmodel.prior.interface import Prior
from worldmodel.prior.prior_registry import prior_row
from worldmodel.prior.state_rows import StateRows

ROWS = 2  # of the example inputs of a trace; the graph takes any number


@dataclass(frozen=True)
class Input:
    """An input of a graph: its name, an example, and its axis of rows; None where it has no rows."""

    name: str
    example: Tensor
    rows_axis: int | None = 0


@dataclass(frozen=True)
class Graph:
    """A module, its inputs, and the names of its outputs."""

    module: nn.Module
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class DecoderSizes:
    """How the codes of a frame are sampled; stored in the export's config.

    Attributes:
        order: name of the order.
        group: G.
        places: the place of each token, in the order of sampling.
        layers: L.
        heads: F.
        head_dim: d.
        slots: N.
        memory: M; 0 for a prior without a cache of earlier frames.
    """

    order: str
    group: int
    places: list[int]
    layers: int
    heads: int
    head_dim: int
    slots: int
    memory: int


class PriorExport(ABC):
    """The export of a prior of one kind.

    Args:
        prior: the prior.

    Attributes:
        state_type: the runtime's state (`OnnxPrior.state_type`) as a class of tensors with the same fields.

    Raises:
        UserError: the step of this prior cannot be exported.
    """

    state_type: ClassVar[type[StateRows]]

    def __init__(self, prior: Any) -> None:
        self.prior = prior
        self.sizes = self.decoder_sizes()

    @abstractmethod
    def decoder_sizes(self) -> DecoderSizes:
        """How the codes of a frame are sampled.

        Raises:
            UserError: it cannot be exported.
        """

    @abstractmethod
    def graphs(self) -> dict[str, Graph]:
        """The graphs "outcome", "frame_condition", "group" and whatever the kind needs besides."""

    def facts(self) -> dict[str, Any]:
        """What `onnx.onnx_prior` needs to know of the prior, as JSON."""
        prior, sizes = self.prior, asdict(self.sizes)
        return {
            "kind": prior.config.kind,
            "order": sizes.pop("order"),
            "grid": list(prior.grid),
            "num_codes": prior.num_codes,
            "window": prior.window,
            "num_uniforms": prior.num_uniforms,
            "max_frames": prior.max_frames,
            **sizes,
        }

    def group_graph(self, weights: GroupWeights, rotary: tuple[Input, ...] = ()) -> Graph:
        """The graph that predicts a group of codes, with its layers' caches as inputs and outputs.

        Args:
            weights: of the prior.
            rotary: the input of the rotary factors, if there is one.
        """

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float32)

        sizes, width = self.sizes, weights.code_head.in_features
        affines_dim = (4 * sizes.layers + 2 * weights.has_frame_summary) * width
        inputs = [
            Input("group_index", torch.zeros((), dtype=torch.int64), None),
            Input("previous_codes", torch.zeros(ROWS, sizes.group, dtype=torch.int64)),
            Input("place_inputs", zeros(ROWS, sizes.group, width)),
            Input("affines", zeros(ROWS, 1, affines_dim)),
            *rotary,
        ]
        if sizes.slots:
            inputs.append(Input("slot_mask", zeros(ROWS, 1, 1, sizes.slots)))
            for i in range(sizes.layers):
                inputs.append(Input(f"keys_{i}", zeros(ROWS, sizes.heads, sizes.head_dim, sizes.slots)))
                inputs.append(Input(f"values_{i}", zeros(ROWS, sizes.heads, sizes.slots, sizes.head_dim)))
        summary = ("frame_summary",) if weights.has_frame_summary else ()
        new_pairs = [f"new_{kind}_{i}" for i in range(sizes.layers) for kind in ("keys", "values")]
        return Graph(GroupLogits(weights), tuple(inputs), ("logits", *summary, *new_pairs))


def export_class(kind: str) -> type[PriorExport]:
    """The export of a kind of prior.

    Raises:
        UserError: it has none.
    """
    entries = prior_row(kind).onnx
    if entries is None:
        raise UserError(f"a {kind} prior has no export for onnxruntime. Step this world with torch.")
    found: type[PriorExport] = load_entry(entries.export)
    return found


def context_inputs(prior: Prior[Any]) -> tuple[Input, ...]:
    """A window: codes (B, W, h, w), actions (B, W) or (B, W, A), has_action (B, W), status (B,)."""
    window, rows = prior.window, torch.zeros(ROWS, dtype=torch.int64)
    action = torch.from_numpy(np.asarray(prior.action_space.sample(np.random.default_rng(0))))
    return (
        Input("codes", rows[:, None, None, None].expand(-1, window, *prior.grid).clone()),
        Input("actions", action.expand(ROWS, window, *action.shape).clone()),
        Input("has_action", rows.bool()[:, None].expand(-1, window).clone()),
        Input("status", rows),
    )


def condition_inputs(condition_dim: int) -> tuple[Input, ...]:
    """The condition (B, C), and the outcome (B,) of the step."""
    rows = torch.zeros(ROWS, dtype=torch.int64)
    condition = Input("condition", torch.zeros(ROWS, condition_dim, dtype=torch.float32))
    return condition, Input("terminations", rows.bool()), Input("status", rows)
