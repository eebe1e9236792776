"""Evaluation of generated clips: every requested clip metric of two sets of clips, as data.

Shapes: N clips, T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from worldmodel.common.errors import UserError
from worldmodel.common.torch_state import isolated_torch_state
from worldmodel.metrics.metric_registry import select_clip_metrics

SECTIONS = {False: "distributions of clips", True: "pairs of clips"}


@isolated_torch_state()
def evaluate_clips(
    real: Iterable[Tensor], generated: Iterable[Tensor], metrics: Sequence[str] = (), paired: bool = False
) -> dict[str, Any]:
    """Compare generated clips with real ones. Neither a world nor a dataset is needed.

    Args:
        real, generated: batches of clips, (N, T, H, W, 3) uint8 with T >= 2, of one shape but for N. Both are read
            batch by batch in turn, so that they need not fit into memory.
        metrics: names of clip metrics; empty for all.
        paired: whether generated clip i is to be compared with real clip i; if not, paired metrics are left out.

    Returns:
        JSON: `clips`, the numbers of real and generated clips; `sections`: heading -> metric -> `description`, `unit`,
        `better` and `values`, as from `evaluate`.

    Raises:
        UserError: an unknown metric, a paired metric of sets that are not paired, or clips of different shapes.
    """
    rows = select_clip_metrics(metrics)
    for row in rows:
        if row.is_paired and not paired and row.name in metrics:
            raise UserError(
                f"metric {row.name!r} compares generated clip i with real clip i, but these sets are not paired; leave "
                "it out, or generate clip i from the conditions of real clip i."
            )
    accumulators = {row: row.make() for row in rows if paired or not row.is_paired}
    counts, shape = {True: 0, False: 0}, None
    for batches in zip_longest(real, generated):
        for is_real, clips in zip((True, False), batches, strict=True):
            if clips is None:
                continue
            shape = tuple(clips.shape[1:]) if shape is None else shape
            _check_clips(clips, shape)
            counts[is_real] += len(clips)
            for accumulator in accumulators.values():
                accumulator.update(clips, is_real)
    sections: dict[str, dict[str, Any]] = {}
    for row, accumulator in accumulators.items():
        sections.setdefault(SECTIONS[row.is_paired], {})[row.name] = {
            "description": row.description,
            "unit": row.unit,
            "better": row.better,
            "values": [value.to_json() for value in accumulator.compute()],
        }
    return {"clips": {"real": counts[True], "generated": counts[False]}, "sections": sections}


def _check_clips(clips: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse clips that are not (N, T, H, W, 3) uint8 with T >= 2, or not of `shape` but for N."""
    if clips.ndim != 5 or clips.shape[4] != 3 or clips.shape[1] < 2 or clips.dtype != torch.uint8:
        raise UserError(f"clips: got {tuple(clips.shape)} {clips.dtype}, wanted (N, T, H, W, 3) uint8 with T >= 2.")
    if tuple(clips.shape[1:]) != shape:
        raise UserError(f"clips of shape {tuple(clips.shape[1:])} cannot be compared with clips of shape {shape}.")
