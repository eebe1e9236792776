"""Plots of an evaluation, as the bytes of a PNG."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from worldmodel.cli.plots import new_figure, png_bytes
from worldmodel.metrics import free_run, prediction

COLOURS = ("#4477aa", "#ee6677")  # real, dreamed


def free_run_bars(result: Mapping[str, Any]) -> bytes:
    """Rates of each policy over the whole free run, recorded and dreamed, as bars with intervals.

    Args:
        result: what `worldmodel.metrics.evaluate` returned, with the free run's metrics.
    """
    metrics = {
        name: metric
        for name, metric in result["sections"].get(free_run.SECTION, {}).items()
        if name != "policy_order" and metric["values"]
    }
    columns = max(1, len(metrics))
    figure, axes = new_figure(2.3 * columns, 3, columns)
    for axis, (name, metric) in zip(axes, metrics.items(), strict=False):
        longest = max(_steps(row["label"]) for row in metric["values"])
        rows = [row for row in metric["values"] if _steps(row["label"]) == longest]
        at = np.arange(len(rows))
        real, dreamed = [row["baselines"]["real"] for row in rows], [row["value"] for row in rows]
        for shift, label, values, colour in ((-0.2, "real", real, COLOURS[0]), (0.2, "dreamed", dreamed, COLOURS[1])):
            low, mean, high = (np.asarray([v[end] or 0.0 for v in values]) for end in ("low", "mean", "high"))
            axis.bar(at + shift, mean, 0.4, yerr=np.maximum([mean - low, high - mean], 0), label=label, color=colour)
        axis.set_xticks(at, [row["label"].rsplit(",", 1)[0] for row in rows], rotation=30)
        axis.set_title(f"{name}\n{metric['unit']}, {longest} steps", fontsize=9)
    axes[0].legend(fontsize=8)
    return png_bytes(figure)


def prediction_curves(result: Mapping[str, Any]) -> bytes:
    """PSNR, SSIM, recall and precision by horizon, of the dream and of the baselines, as lines with intervals.

    Args:
        result: what `worldmodel.metrics.evaluate` returned, with metrics of prediction by horizon.
    """
    section = result["sections"].get(prediction.SECTION, {})
    metrics = {name: m for name, m in section.items() if name != "control_psnr" and m["values"]}
    columns = max(1, len(metrics))
    figure, axes = new_figure(3.4 * columns, 3, columns)
    for axis, (name, metric) in zip(axes, metrics.items(), strict=False):
        ahead = [int(row["label"].split()[0]) for row in metric["values"]]
        lines = {"dream": [row["value"] for row in metric["values"]]}
        for baseline in metric["values"][0]["baselines"]:
            lines[baseline] = [row["baselines"][baseline] for row in metric["values"]]
        for label, values in lines.items():
            means = [np.nan if v["mean"] is None else v["mean"] for v in values]
            style = {"color": "black", "linewidth": 2} if label == "dream" else {"linewidth": 1}
            (line,) = axis.plot(ahead, means, marker=".", label=label, **style)
            if values[0]["low"] is not None:
                low, high = ([np.nan if v[end] is None else v[end] for v in values] for end in ("low", "high"))
                axis.fill_between(ahead, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axis.set_xscale("log", base=2)
        axis.set_xticks(ahead, [str(h) for h in ahead])
        axis.set_xlabel("frames ahead")
        axis.set_ylabel(f"{name}, {metric['unit']}")
    axes[0].legend(fontsize=7)
    return png_bytes(figure)


def _steps(of: str) -> int:
    """The number in "random, 40 steps"."""
    return int(of.rsplit(",", 1)[1].split()[0])
