"""The parts of a world as ONNX graphs.

Shapes: B rows, W frames of a context, h w code grid, P = h*w places, n groups of G places, V codes in the book, D
width, C condition width, L layers that write, d numbers a head, N slots of the cache, M frames of memory, S = P + 1
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
from worldmodel.onnx.onnx_modules import (
    FactoredOutcome,
    FactoredTell,
    FlatBegin,
    FlatOutcome,
    FlatTell,
    Pixels,
    Reward,
    Write,
    kv_heads_of,
)
from worldmodel.onnx.onnx_world import EXTRA
from worldmodel.prior.factored.factored_prior import FactoredPrior
from worldmodel.prior.flat.flat_prior import FlatPrior
from worldmodel.prior.interface import Prior
from worldmodel.world.world_model import WorldModel

OPSET = 20  # the first with GELU
NEEDED = ("onnx", "onnxscript")
ROWS = 2  # of the example that is traced; any number may come later


@dataclass(frozen=True)
class Input:
    """An input of a graph: its name, an example, and which of its axes is the rows; None where it has no rows."""

    name: str
    example: Tensor
    axis: int | None = 0


@dataclass(frozen=True)
class Graph:
    """A function of tensors, its inputs, and names for its outputs."""

    module: nn.Module
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]


def facts_of(prior: Prior[Any]) -> dict[str, Any]:
    """What `plain.steps` must know of a prior, JSON.

    Raises:
        UserError: a prior that cannot be stepped, or whose step has no parts here.
    """
    if not prior.can_step:
        raise UserError(
            "this world's prior is conditioned by a whole clip's actions (scope clip) and cannot be stepped, so there "
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
                f"this world's prior draws frames from a mixture of {config.mixture} in groups of {sorted(sizes)} "
                "codes; an export takes no mixture, and groups of one size. Step it with torch."
            )
        kind, group, layers, memory = "factored", sizes.pop(), config.decoder_layers, 0
        # the last group's keys and values are seen by no one
        places, slots, name = prior.order.token_places, h * w - group, config.order
    return {
        "kind": kind,
        "order": name,
        "grid": [h, w],
        "num_codes": prior.num_codes,
        "window": prior.window,
        "num_draws": prior.num_uniforms,
        "max_frames": prior.max_frames,
        "group": group,
        "places": places.tolist(),
        "layers": layers,
        "heads": kv_heads_of(prior),
        "head_dim": config.width // config.num_heads,
        "slots": slots,
        "memory": memory,
    }


def graphs_of(world: WorldModel) -> dict[str, Graph]:
    """Every part of a world by its name.

    Raises:
        UserError: a prior that cannot be stepped.
    """
    prior, facts = world.prior, facts_of(world.prior)
    width, window, rows = prior.config.width, prior.window, torch.zeros(ROWS, dtype=torch.int64)
    pictures = rows[:, None, None, None].expand(-1, window, *prior.grid).clone()  # (B, W, h, w)
    one = torch.from_numpy(np.asarray(prior.action_space.sample(np.random.default_rng(0))))
    actions = one.expand(ROWS, window, *one.shape).clone()  # (B, W) or (B, W, A)
    ended = rows.bool()
    has_action = ended[:, None].expand(-1, window).clone()
    context = (
        Input("codes", pictures),
        Input("actions", actions),
        Input("has_action", has_action),
        Input("status", rows),
    )
    picture, summary = Input("codes", pictures[:, 0].clone()), Input("summary", torch.zeros(ROWS, width))
    found = {}
    outcome: nn.Module
    tell: nn.Module
    now: tuple[Input, ...]
    if isinstance(prior, FlatPrior):
        found["begin"] = Graph(FlatBegin(prior), context, ("keys", "values", "summary"))
        now = (Input("before", summary.example), Input("actions", actions[:, 0].clone()))
        outcome, tell, condition_dim = FlatOutcome(prior), FlatTell(prior), prior.config.action_dim
        said: tuple[str, ...] = ()
        of_frame: tuple[Input, ...] = (picture, Input("times", rows))
        told: tuple[str, ...] = ("affines", "base")
        own = []
        if prior.transformer.rotary is not None:
            told = (*told, "turns")
            turned = width + facts["heads"] * facts["head_dim"]
            own.append(Input("turns", torch.zeros(2, ROWS, 1, turned), 1))
        written: tuple[str, ...] = ("logits", "z")
    else:
        assert isinstance(prior, FactoredPrior)
        outcome, tell, now = FactoredOutcome(prior), FactoredTell(prior), context
        condition_dim = prior.config.window * prior.config.action_dim
        said, of_frame, told, own, written = ("base",), (), ("affines",), [], ("logits",)
    found["outcome"] = Graph(outcome, now, ("summary", "condition", "hazards", "status_logits", *said))
    drawn = (Input("terminations", ended), Input("status", rows))
    condition = Input("condition", torch.zeros(ROWS, condition_dim))
    found["tell"] = Graph(tell, (condition, *drawn, *of_frame), told)
    found["write"] = _write(prior, facts, own, written)
    found["reward"] = Graph(Reward(prior), (summary, drawn[0], picture), ("rewards",))
    found["pixels"] = Graph(Pixels(world.tokenizer), (picture,), ("frames",))
    return found


def _write(prior: Prior[Any], facts: dict[str, Any], own: list[Input], written: tuple[str, ...]) -> Graph:
    """The part that writes a group, with inputs and outputs of its prior's own and the caches of its layers."""
    width, layers, group = prior.config.width, facts["layers"], facts["group"]
    heads, d, slots = facts["heads"], facts["head_dim"], facts["slots"]
    given = [
        Input("at", torch.zeros((), dtype=torch.int64), None),
        Input("before", torch.zeros(ROWS, group, dtype=torch.int64)),
        Input("base", torch.zeros(ROWS, group, width)),
        Input("affines", torch.zeros(ROWS, 1, (4 * layers + (2 if facts["kind"] == "flat" else 0)) * width)),
        *own,
    ]
    if slots:
        given.append(Input("unseen", torch.zeros(ROWS, 1, 1, slots)))
        for i in range(layers):
            given.append(Input(f"keys_{i}", torch.zeros(ROWS, heads, d, slots)))
            given.append(Input(f"values_{i}", torch.zeros(ROWS, heads, slots, d)))
    news = [f"new_{kind}_{i}" for i in range(layers) for kind in ("keys", "values")]
    return Graph(Write(prior), tuple(given), (*written, *news))


def to_onnx(graph: Graph) -> bytes:
    """A graph as the bytes of an ONNX file, for any number of rows.

    Raises:
        UserError: the exporter's packages are not installed.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UserError(f"exporting a world needs {' and '.join(missing)}, which are not installed: {EXTRA}")
    rows = torch.export.Dim("rows")
    shapes: list[Any] = [None if given.axis is None else {given.axis: rows} for given in graph.inputs]
    if isinstance(graph.module, Write) and len(shapes) > 4:  # its last parameter takes all that is left
        shapes = [*shapes[:4], tuple(shapes[4:])]
    with tempfile.TemporaryDirectory() as folder, _silent(), torch.no_grad():
        path = Path(folder) / "graph.onnx"
        torch.onnx.export(
            graph.module,
            tuple(given.example.clone() for given in graph.inputs),  # one tensor given twice would be one input
            path,
            input_names=[given.name for given in graph.inputs],
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
    """Keep to itself what the exporter tells of its progress and of packages that it does not need."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
