"""Plots as the bytes of a PNG: histograms of a dataset, and lines.

Importing this module loads no matplotlib.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from worldmodel.data import Dataset


def new_figure(width: float, height: float, num_axes: int) -> Any:
    """A matplotlib figure, in inches, and the list of its axes in one row."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, num_axes, figsize=(width, height), squeeze=False, layout="constrained")
    return figure, axes[0]


def png_bytes(figure: Any) -> bytes:
    """Close a matplotlib figure and return it as a PNG."""
    from matplotlib import pyplot

    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    pyplot.close(figure)
    return stream.getvalue()


def dataset_histograms(data: Dataset) -> bytes:
    """Histograms of returns, lengths and actions by policy."""
    figure, axes = new_figure(11, 3, 3)
    names = sorted(set(data.policies))
    returns: dict[str, list[float]] = {name: [] for name in names}
    actions: dict[str, list[np.ndarray]] = {name: [] for name in names}
    all_rewards, all_actions = data.flat("rewards"), data.flat("actions")
    for name, begin, length in zip(data.policies, data.step_offsets, data.lengths, strict=True):
        returns[name].append(float(all_rewards[begin : begin + length].sum()))
        actions[name].append(all_actions[begin : begin + length])
    lengths = {name: data.lengths[data.policies == name] for name in names}
    for axis, values, label in ((axes[0], returns, "return"), (axes[1], lengths, "steps")):
        axis.hist([values[name] for name in names], bins=20, stacked=True, label=names)
        axis.set_xlabel(f"{label} of an episode")
        axis.set_ylabel("episodes")
    axes[0].legend(fontsize=8)
    _plot_action_shares(axes[2], {name: np.concatenate(actions[name]) for name in names}, data.header.action_labels)
    return png_bytes(figure)


def _plot_action_shares(axis: Any, actions: dict[str, np.ndarray], labels: Any) -> None:
    """By policy: bars of each action's share for Discrete actions (N,), else a histogram of all numbers of (N, A)."""
    first = next(iter(actions.values()))
    if first.size == 0:  # plain videos
        axis.set_xlabel("no actions")
        return
    if first.ndim == 1:
        count = len(labels) or int(first.max()) + 1
        for i, taken in enumerate(actions.values()):
            share = np.bincount(taken, minlength=count) / max(1, len(taken))
            axis.bar(np.arange(count) + (i - (len(actions) - 1) / 2) * 0.8 / len(actions), share, 0.8 / len(actions))
        axis.set_xticks(range(count), labels or [str(i) for i in range(count)])
    else:
        axis.hist([taken.ravel() for taken in actions.values()], bins=20, density=True)
    axis.set_ylabel("share of steps")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a log with one JSON object a line; an incomplete last line is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def line_plots(panels: list[tuple[str, str, list[tuple[str, list[float], list[float]]]]]) -> bytes:
    """Panels of lines, side by side.

    Args:
        panels: (label of x, label of y, [(name, xs, ys), ...]) for each panel.
    """
    figure, axes = new_figure(4 * len(panels), 3, len(panels))
    for axis, (xlabel, ylabel, lines) in zip(axes, panels, strict=True):
        for name, xs, ys in lines:
            axis.plot(xs, ys, label=name)
        axis.set_xlabel(xlabel)
        axis.set_ylabel(ylabel)
        if len(lines) > 1:
            axis.legend(fontsize=8)
    return png_bytes(figure)
