"""The modules of a world as ONNX graphs.

Shapes: B rows, h w code grid.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from worldmodel.common.errors import UserError
from worldmodel.onnx.group_modules import GroupLogits
from worldmodel.onnx.onnx_modules import Decoder, Reward
from worldmodel.onnx.onnx_world import INSTALL
from worldmodel.onnx.prior_export import ROWS, Graph, Input, export_class
from worldmodel.prior.interface import Prior
from worldmodel.world.world_model import WorldModel

OPSET = 20  # the first with GELU
PACKAGES = ("onnx", "onnxscript")


def prior_facts(prior: Prior[Any]) -> dict[str, Any]:
    """What `onnx.onnx_prior` needs to know of a prior, as JSON.

    Raises:
        UserError: a prior whose step cannot be exported.
    """
    return export_class(prior.config.kind)(prior).facts()


def world_graphs(world: WorldModel) -> dict[str, Graph]:
    """The graphs of a world by name; a name with `.onnx` is the name of its file.

    Raises:
        UserError: a prior whose step cannot be exported, or a causal tokenizer.
    """
    prior = world.prior
    if world.tokenizer.config.time == "causal":
        raise UserError(
            "a world with a causal tokenizer cannot be exported to ONNX, since its decoder has a state; step it with "
            "backend='torch'."
        )
    graphs = export_class(prior.config.kind)(prior).graphs()
    rows = torch.zeros(ROWS, dtype=torch.int64)
    frame = Input("codes", rows[:, None, None].expand(-1, *prior.grid).clone())  # (B, h, w)
    summary = Input("summary", torch.zeros(ROWS, prior.config.width, dtype=torch.float32))
    graphs["reward"] = Graph(Reward(prior), (summary, Input("terminations", rows.bool()), frame), ("rewards",))
    graphs["decoder"] = Graph(Decoder(world.tokenizer), (frame,), ("frames",))
    return graphs


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
