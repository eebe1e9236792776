"""The modules of a world as ONNX graphs.

Shapes: B rows, W frames of a context, h w code grid, P = h*w places, n groups of G places, D width, C condition width,
L decoder layers, F heads of keys and values, d head width, N slots of the cache, M frames of memory, S = P + 1
positions of a frame.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel.common.errors import UserError
from worldmodel.onnx.group_modules import GroupLogits, num_kv_heads
from worldmodel.onnx.onnx_modules import (
    Decoder,
    FactoredFrameCondition,
    FactoredOutcome,
    FlatContext,
    FlatFrameCondition,
    FlatOutcome,
    Reward,
)
from worldmodel.onnx.onnx_world import INSTALL
from worldmodel.prior.factored.factored_prior import FactoredPrior
from worldmodel.prior.flat.flat_prior import FlatPrior
from worldmodel.prior.interface import Prior
from worldmodel.world.world_model import WorldModel

OPSET = 20  # the first with GELU
PACKAGES = ("onnx", "onnxscript")
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


def prior_facts(prior: Prior[Any]) -> dict[str, Any]:
    """What `onnx.onnx_priors` needs to know of a prior, as JSON.

    Raises:
        UserError: a prior that cannot be stepped, or whose step cannot be exported.
    """
    if not prior.can_step:
        raise UserError(
            "this world's prior is conditioned on a whole clip's actions (scope clip) and cannot be stepped, so there "
            "is no step to export. Train one with scope step."
        )
    h, w = prior.grid
    config = prior.config
    if isinstance(prior, FlatPrior):
        kind, group, layers, memory = "flat", 1, config.num_layers, prior.memory
        places, slots, name = torch.arange(h * w), (memory + 1) * (h * w + 1), "raster"
    else:
        assert isinstance(prior, FactoredPrior)
        sizes = {span.stop - span.start for span in prior.order.group_slices}
        if config.mixture > 1 or len(sizes) > 1:
            raise UserError(
                f"this world's prior samples frames from a mixture of {config.mixture} in groups of {sorted(sizes)} "
                "codes; an export takes no mixture, and groups of one size. Step it with torch."
            )
        kind, group, layers, memory = "factored", sizes.pop(), config.decoder_layers, 0
        # no later group attends to the last group's keys and values
        places, slots, name = prior.order.token_places, h * w - group, config.order
    return {
        "kind": kind,
        "order": name,
        "grid": [h, w],
        "num_codes": prior.num_codes,
        "window": prior.window,
        "num_uniforms": prior.num_uniforms,
        "max_frames": prior.max_frames,
        "group": group,
        "places": places.tolist(),
        "layers": layers,
        "heads": num_kv_heads(prior),
        "head_dim": config.width // config.num_heads,
        "slots": slots,
        "memory": memory,
    }


def world_graphs(world: WorldModel) -> dict[str, Graph]:
    """The graphs of a world by name; a name with `.onnx` is the name of its file.

    Raises:
        UserError: a prior that cannot be stepped, or whose step cannot be exported.
    """
    prior, facts = world.prior, prior_facts(world.prior)
    rows = torch.zeros(ROWS, dtype=torch.int64)
    frame = Input("codes", rows[:, None, None].expand(-1, *prior.grid).clone())  # (B, h, w)
    summary = Input("summary", torch.zeros(ROWS, prior.config.width, dtype=torch.float32))
    terminations = Input("terminations", rows.bool())
    if isinstance(prior, FlatPrior):
        graphs = _flat_graphs(prior, facts)
    else:
        assert isinstance(prior, FactoredPrior)
        graphs = _factored_graphs(prior, facts)
    graphs["reward"] = Graph(Reward(prior), (summary, terminations, frame), ("rewards",))
    graphs["decoder"] = Graph(Decoder(world.tokenizer), (frame,), ("frames",))
    return graphs


def _factored_graphs(prior: FactoredPrior, facts: dict[str, Any]) -> dict[str, Graph]:
    """The graphs that only a factored prior has."""
    condition = _condition_inputs(prior.config.window * prior.config.action_dim)
    outputs = ("summary", "condition", "hazards", "status_logits", "place_inputs")
    return {
        "outcome": Graph(FactoredOutcome(prior), _context_inputs(prior), outputs),
        "frame_condition": Graph(FactoredFrameCondition(prior), condition, ("affines",)),
        "group": _group_graph(prior, facts, (), ("logits",)),
    }


def _flat_graphs(prior: FlatPrior, facts: dict[str, Any]) -> dict[str, Graph]:
    """The graphs that only a flat prior has."""
    width, rows = prior.config.width, torch.zeros(ROWS, dtype=torch.int64)
    context = _context_inputs(prior)
    frame_summary = Input("frame_summary", torch.zeros(ROWS, width, dtype=torch.float32))
    actions = Input("actions", context[1].example[:, 0].clone())
    frame = Input("codes", context[0].example[:, 0].clone())
    condition = (*_condition_inputs(prior.config.action_dim), frame, Input("times", rows))
    of_condition: tuple[str, ...] = ("affines", "place_inputs")
    rotary: tuple[Input, ...] = ()
    if prior.transformer.rotary is not None:
        rotated_dim = width + facts["heads"] * facts["head_dim"]
        rotary = (Input("rotary", torch.zeros(2, ROWS, 1, rotated_dim, dtype=torch.float32), 1),)
        of_condition = (*of_condition, "rotary")
    of_outcome = ("summary", "condition", "hazards", "status_logits")
    return {
        "context": Graph(FlatContext(prior), context, ("keys", "values", "frame_summary")),
        "outcome": Graph(FlatOutcome(prior), (frame_summary, actions), of_outcome),
        "frame_condition": Graph(FlatFrameCondition(prior), condition, of_condition),
        "group": _group_graph(prior, facts, rotary, ("logits", "frame_summary")),
    }


def _context_inputs(prior: Prior[Any]) -> tuple[Input, ...]:
    """A window: codes (B, W, h, w), actions (B, W) or (B, W, A), has_action (B, W), status (B,)."""
    window, rows = prior.window, torch.zeros(ROWS, dtype=torch.int64)
    action = torch.from_numpy(np.asarray(prior.action_space.sample(np.random.default_rng(0))))
    return (
        Input("codes", rows[:, None, None, None].expand(-1, window, *prior.grid).clone()),
        Input("actions", action.expand(ROWS, window, *action.shape).clone()),
        Input("has_action", rows.bool()[:, None].expand(-1, window).clone()),
        Input("status", rows),
    )


def _condition_inputs(condition_dim: int) -> tuple[Input, ...]:
    """The condition (B, C), and the outcome (B,) of the step."""
    rows = torch.zeros(ROWS, dtype=torch.int64)
    condition = Input("condition", torch.zeros(ROWS, condition_dim, dtype=torch.float32))
    return condition, Input("terminations", rows.bool()), Input("status", rows)


def _group_graph(
    prior: Prior[Any], facts: dict[str, Any], own_inputs: tuple[Input, ...], own_outputs: tuple[str, ...]
) -> Graph:
    """The graph that predicts a group of codes, with inputs and outputs of the prior's own and its layers' caches."""

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float32)

    width, layers, group = prior.config.width, facts["layers"], facts["group"]
    heads, head_dim, slots = facts["heads"], facts["head_dim"], facts["slots"]
    affines_dim = (4 * layers + (2 if facts["kind"] == "flat" else 0)) * width
    inputs = [
        Input("group_index", torch.zeros((), dtype=torch.int64), None),
        Input("previous_codes", torch.zeros(ROWS, group, dtype=torch.int64)),
        Input("place_inputs", zeros(ROWS, group, width)),
        Input("affines", zeros(ROWS, 1, affines_dim)),
        *own_inputs,
    ]
    if slots:
        inputs.append(Input("slot_mask", zeros(ROWS, 1, 1, slots)))
        for i in range(layers):
            inputs.append(Input(f"keys_{i}", zeros(ROWS, heads, head_dim, slots)))
            inputs.append(Input(f"values_{i}", zeros(ROWS, heads, slots, head_dim)))
    new_pairs = [f"new_{kind}_{i}" for i in range(layers) for kind in ("keys", "values")]
    return Graph(GroupLogits(prior), tuple(inputs), (*own_outputs, *new_pairs))


def to_onnx(graph: Graph) -> bytes:
    """A graph as the bytes of an ONNX file, for any number of rows.

    Raises:
        UserError: the exporter's packages are not installed.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"exporting a world needs {' and '.join(missing)}, which are not installed: {INSTALL}")
    rows = torch.export.Dim("rows")
    shapes: list[Any] = [None if x.rows_axis is None else {x.rows_axis: rows} for x in graph.inputs]
    if isinstance(graph.module, GroupLogits) and len(shapes) > 4:  # its last parameter takes the other inputs
        shapes = [*shapes[:4], tuple(shapes[4:])]
    with tempfile.TemporaryDirectory() as folder, _silent(), torch.no_grad():
        path = Path(folder) / "graph.onnx"
        torch.onnx.export(
            graph.module,
            tuple(x.example.clone() for x in graph.inputs),  # a tensor that is given twice would become one input
            path,
            input_names=[x.name for x in graph.inputs],
            output_names=list(graph.outputs),
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=tuple(shapes),
            external_data=False,
            verbose=False,
        )
        return path.read_bytes()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Hide the exporter's messages about its progress and about packages that it does not need."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
