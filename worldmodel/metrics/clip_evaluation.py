"""Evaluation of generated clips: every requested clip metric of two sets of clips, as data.

Shapes: N clips, S samples of a clip, T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from worldmodel.common.errors import UserError
from worldmodel.common.torch_state import isolated_torch_state
from worldmodel.metrics.clip_metric import ClipAccumulator, ClipMetric
from worldmodel.metrics.clip_protocols import ClipNetworks, ClipSettings
from worldmodel.metrics.metric_registry import ALL, select_clip_metrics

SECTIONS = {False: "distributions of clips", True: "pairs of clips"}


@isolated_torch_state()
def evaluate_clips(
    real: Iterable[Tensor],
    generated: Iterable[Tensor],
    metrics: Sequence[str] = (),
    paired: bool = False,
    settings: ClipSettings | None = None,
    networks: ClipNetworks | None = None,
) -> dict[str, Any]:
    """Compare generated clips with real ones. Neither a world nor a dataset is needed.

    Args:
        real, generated: batches of clips, (N, T, H, W, 3) uint8 with T >= 2, of one shape but for N. Both are read
            batch by batch in turn, so that they need not fit into memory. Generated batches may be (N, S, T, H, W, 3):
            metrics of pairs then count the best of S samples, the others the first.
        metrics: names of clip metrics; empty for those that are evaluated by default.
        paired: whether generated clip i is to be compared with real clip i; if not, paired metrics are left out.
        settings: of the metrics; None for the defaults.
        networks: loaded networks, to share them between calls; None for those of `settings`.

    Returns:
        JSON: `clips`, the numbers of real and generated clips; `warnings`; `sections`: heading -> metric ->
        `description`, `unit`, `better`, `details` and `values`, as from `evaluate`.

    Raises:
        UserError: an unknown metric, a paired metric of sets that are not paired, clips of different shapes, or a
            network that cannot be loaded.
    """
    accumulators = _accumulators(metrics, paired, networks or ClipNetworks(settings))
    counts, shape = {True: 0, False: 0}, None
    for batches in zip_longest(real, generated):
        for is_real, clips in zip((True, False), batches, strict=True):
            if clips is None:
                continue
            first = clips[:, 0] if clips.ndim == 6 and not is_real else clips
            shape = tuple(first.shape[1:]) if shape is None else shape
            _check_clips(first, shape)
            counts[is_real] += len(clips)
            for row, accumulator in accumulators.items():
                accumulator.update(clips if row.is_paired else first, is_real)
    sections: dict[str, dict[str, Any]] = {}
    warnings: list[str] = []
    for row, accumulator in accumulators.items():
        sections.setdefault(SECTIONS[row.is_paired], {})[row.name] = {
            "description": row.description,
            "unit": row.unit,
            "better": row.better,
            "details": accumulator.details(),
            "values": [value.to_json() for value in accumulator.compute()],
        }
        warnings += [sentence for sentence in accumulator.warnings() if sentence not in warnings]
    return {"clips": {"real": counts[True], "generated": counts[False]}, "warnings": warnings, "sections": sections}


def _accumulators(metrics: Sequence[str], paired: bool, networks: ClipNetworks) -> dict[ClipMetric, ClipAccumulator]:
    """An empty accumulator of each requested metric that can be measured."""
    rows = select_clip_metrics(metrics)
    unpaired = [row.name for row in rows if row.is_paired and not paired]
    if metrics and unpaired and ALL not in metrics:
        raise UserError(
            f"metric {unpaired[0]!r} compares generated clip i with real clip i, but these sets are not paired; leave "
            "it out, or generate clip i from the conditions of real clip i."
        )
    return {row: row.accumulator(networks) for row in rows if paired or not row.is_paired}


def _check_clips(clips: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse clips that are not (N, T, H, W, 3) uint8 with T >= 2, or not of `shape` but for N."""
    if clips.ndim != 5 or clips.shape[4] != 3 or clips.shape[1] < 2 or clips.dtype != torch.uint8:
        raise UserError(f"clips: got {tuple(clips.shape)} {clips.dtype}, wanted (N, T, H, W, 3) uint8 with T >= 2.")
    if tuple(clips.shape[1:]) != shape:
        raise UserError(f"clips of shape {tuple(clips.shape[1:])} cannot be compared with clips of shape {shape}.")
