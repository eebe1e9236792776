"""Statistics of a dataset, as JSON and as a table of text with small histograms."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldmodel.common import spaces
from worldmodel.common.text import human_bytes
from worldmodel.data.dataset import Dataset
from worldmodel.data.splits import GIVEN

BINS = 20
DEAD_TIME_EPISODES = 64
_BARS = " ▁▂▃▄▅▆▇█"


def summarize(dataset: Dataset) -> dict[str, Any]:
    """Compute the statistics of a dataset, as JSON.

    Every step is read, but not every frame: dead time, the share of frames that equal the previous frame, is computed
    from at most 64 episodes, evenly spaced.

    Args:
        dataset: an open dataset.

    Returns:
        {"files", "env", "env_kwargs", "action_space", "action_labels", "action_keys", "frame_shape",
        "frame_skip", "max_steps", "variables", "num_episodes", "num_frames", "num_steps", "bytes_on_disk",
        "frame_bytes", "fingerprint", "splits", "split_rule", "missing_splits", "labels" (episodes of each class),
        "terminated", "truncated", "ended_by_neither", "invalid_last_frames" (shares of episodes),
        "dead_time": {"share", "episodes_read"},
        "return", "length" (of all episodes) and "policies": one {"name", "hash", "planned_share", "episodes",
        "share", "return", "length", "actions"} each}. A return or length is {"mean", "min", "max",
        "histogram": {"edges", "counts"}}, in reward and in steps, and has the same edges for every policy.
        "actions" is a list, one entry for a Discrete space and one per dimension otherwise: {"counts"} by
        choice, or for Box {"edges", "counts"}.
    """
    header = dataset.header
    returns = np.add.reduceat(dataset.flat("rewards").astype(np.float64), dataset.step_offsets)
    edges = {"return": _edges(returns), "length": _edges(dataset.lengths)}
    return {
        "files": [str(path) for path in dataset.paths],
        "env": header.env,
        "env_kwargs": header.env_kwargs,
        "action_space": header.action_space.to_json(),
        "action_labels": header.to_json()["action_labels"],
        "action_keys": list(header.action_keys),
        "frame_shape": list(header.pixels.frame_shape),
        "frame_skip": header.frame_skip,
        "max_steps": header.max_steps,
        "variables": list(header.variables),
        "num_episodes": dataset.num_episodes,
        "num_frames": dataset.num_frames,
        "num_steps": dataset.num_steps,
        "bytes_on_disk": sum(path.stat().st_size for path in dataset.paths),
        "frame_bytes": dataset.num_frames * int(np.prod(header.pixels.frame_shape)),
        "fingerprint": dataset.fingerprint,
        "splits": dataset.split_counts,
        "split_rule": header.split_rule,
        "missing_splits": dataset.missing_splits,
        "labels": dataset.label_counts,
        **_ends(dataset),
        "dead_time": _dead_time(dataset),
        "return": _describe(returns, edges["return"]),
        "length": _describe(dataset.lengths, edges["length"]),
        "policies": _policies(dataset, returns, edges),
    }


def _ends(dataset: Dataset) -> dict[str, float]:
    """How episodes end, as shares of all episodes."""
    last_steps = dataset.step_offsets + dataset.lengths - 1
    terminated, truncated = (dataset.flat(name)[last_steps] for name in ("terminations", "truncations"))
    last_valid = dataset.flat("frame_valid")[dataset.frame_offsets + dataset.lengths]
    return {
        "terminated": float(terminated.mean()),
        "truncated": float(truncated.mean()),
        "ended_by_neither": float((~terminated & ~truncated).mean()),
        "invalid_last_frames": float((~last_valid).mean()),
    }


def _policies(dataset: Dataset, returns: np.ndarray, edges: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """The statistics of each policy that has episodes.

    Args:
        dataset: an open dataset.
        returns: (N,), the return of each episode.
        edges: bin edges of the histograms of "return" and "length".
    """
    space = dataset.header.action_space
    step_policies = np.repeat(dataset.policy_numbers, dataset.lengths)  # (S,)
    policies = []
    for number, policy in enumerate(dataset.header.policies):
        chosen = dataset.policy_numbers == number  # (N,)
        if chosen.any():
            policies.append(
                {
                    "name": policy.name,
                    "hash": policy.hash,
                    "planned_share": policy.share,
                    "episodes": int(chosen.sum()),
                    "share": float(chosen.mean()),
                    "return": _describe(returns[chosen], edges["return"]),
                    "length": _describe(dataset.lengths[chosen], edges["length"]),
                    "actions": _actions(dataset.flat("actions")[step_policies == number], space),
                }
            )
    return policies


def _edges(values: np.ndarray) -> np.ndarray:
    """Edges of `BINS` equal bins, (BINS + 1,); around a constant they span an interval of length 1."""
    low, high = float(values.min()), float(values.max())
    return np.linspace(low, high, BINS + 1) if high > low else np.linspace(low - 0.5, high + 0.5, BINS + 1)


def _describe(values: np.ndarray, edges: np.ndarray) -> dict[str, Any]:
    return {
        "mean": float(values.mean()),
        "min": float(values.min()),
        "max": float(values.max()),
        "histogram": {"edges": edges.tolist(), "counts": np.histogram(values, edges)[0].tolist()},
    }


def _actions(actions: np.ndarray, space: spaces.Space) -> list[dict[str, Any]]:
    """A histogram of each dimension of the actions, (S,) or (S, A)."""
    if isinstance(space, spaces.NoAction):
        return []
    columns = actions.reshape(len(actions), -1).T  # (A, S)
    if isinstance(space, spaces.Box):
        histograms = []
        for column, low, high in zip(columns, space.low, space.high, strict=True):
            unbounded = low is None or high is None
            edges = _edges(column) if unbounded else np.linspace(float(low or 0), float(high or 0), BINS + 1)
            histograms.append({"edges": edges.tolist(), "counts": np.histogram(column, edges)[0].tolist()})
        return histograms
    if isinstance(space, spaces.Discrete):
        choices = [space.n]
    elif isinstance(space, spaces.MultiBinary):
        choices = [2] * space.n
    else:
        choices = list(space.nvec)
    return [{"counts": np.bincount(column, minlength=n).tolist()} for column, n in zip(columns, choices, strict=True)]


def _dead_time(dataset: Dataset) -> dict[str, Any]:
    """The share of valid frames that equal the previous frame, over some episodes."""
    numbers = np.unique(np.linspace(0, dataset.num_episodes - 1, DEAD_TIME_EPISODES).round().astype(int))
    unchanged = total = 0
    for number in numbers:
        frames = dataset.frames(int(number))
        begin = int(dataset.frame_offsets[number])
        valid = np.asarray(dataset.flat("frame_valid")[begin + 1 : begin + len(frames)])
        same = (frames[1:] == frames[:-1]).all(axis=(1, 2, 3))
        unchanged, total = unchanged + int((same & valid).sum()), total + int(valid.sum())
    return {"share": unchanged / total if total else 0.0, "episodes_read": len(numbers)}


def bars(counts: list[int]) -> str:
    """A histogram as one line of text, one character per bin; every count above 0 is visible."""
    top = max(counts, default=0)
    return "".join(_BARS[-(-count * 8 // top)] if count else " " for count in counts)


def format_summary(summary: dict[str, Any]) -> str:
    """The result of `summarize` as a table for a terminal."""
    s = summary
    files = s["files"][0] if len(s["files"]) == 1 else f"{len(s['files'])} files"
    height, width = s["frame_shape"][:2]
    kwargs = ", ".join(f"{name}={value!r}" for name, value in s["env_kwargs"].items())
    splits = ", ".join(f"{count} {name}" for name, count in s["splits"].items())
    lines = [
        files,
        f"  environment  {s['env']}{f' ({kwargs})' if kwargs else ''}, frame skip {s['frame_skip']}, "
        f"at most {s['max_steps'] or 'any number of'} steps",
        f"  frames       {height} x {width}, {s['num_frames']:,} in {s['num_episodes']:,} episodes; "
        f"{s['num_steps']:,} steps",
        f"  on disk      {human_bytes(s['bytes_on_disk'])}, {human_bytes(s['frame_bytes'])} of it frames",
        f"  splits       {splits}{' (given)' if s['split_rule'] == GIVEN else ''}",
        f"  ends         {s['terminated']:.1%} terminated, {s['truncated']:.1%} truncated, "
        f"{s['ended_by_neither']:.1%} neither; {s['invalid_last_frames']:.1%} without a valid last frame",
        f"  dead time    {s['dead_time']['share']:.1%} of frames equal the previous frame "
        f"({s['dead_time']['episodes_read']} episodes read)",
    ]
    if s["labels"]:
        counts = ", ".join(f"{name} {count:,}" for name, count in s["labels"].items())
        without = s["num_episodes"] - sum(s["labels"].values())
        lines.append(f"  labels       {counts}{f'; {without:,} without a label' if without else ''}")
    if s["variables"]:
        lines.append(f"  variables    {', '.join(s['variables'])}")
    if s["missing_splits"]:
        lines.append(f"  note         {s['missing_splits']}")
    policies = s["policies"]
    rows = [("all", s["num_episodes"], s)] if len(policies) > 1 else []
    rows += [(policy["name"], policy["episodes"], policy) for policy in policies]
    column = max(8, *(len(name) for name, _, _ in rows))
    for key, unit in (("return", ""), ("length", " (steps)")):
        edges = s[key]["histogram"]["edges"]
        bounds = f"histogram {edges[0]:.4g} to {edges[-1]:.4g}"
        lines += ["", f"  {key + unit:{column}}  episodes      mean       min       max  {bounds}"]
        for name, episodes, row in rows:
            d = row[key]
            lines.append(
                f"  {name:{column}}  {episodes:8,}  {d['mean']:8.4g}  {d['min']:8.4g}  {d['max']:8.4g}  "
                f"|{bars(d['histogram']['counts'])}|"
            )
    if any(policy["actions"] for policy in policies):
        lines += ["", "  actions"]
    for policy in policies:
        lines += _action_lines(policy, s["action_labels"], column)
    return "\n".join(lines) + "\n"


def _action_lines(policy: dict[str, Any], labels: list[Any], column: int) -> list[str]:
    """The share of each choice, or for Box a histogram of each dimension."""
    lines = []
    for number, entry in enumerate(policy["actions"]):
        name = policy["name"] if number == 0 else ""
        counts = entry["counts"]
        if "edges" in entry:
            label = f"{labels[number]} " if len(labels) == len(policy["actions"]) else f"[{number}] "
            text = f"{label}{entry['edges'][0]:.3g} |{bars(counts)}| {entry['edges'][-1]:.3g}"
        else:
            names = labels[number] if labels and isinstance(labels[0], list) else labels
            if len(names) != len(counts):
                names = [str(i) for i in range(len(counts))]
            total = max(sum(counts), 1)
            shares = [f"{n} {count / total:.0%}" for n, count in zip(names, counts, strict=True)]
            dimension = f"[{number}] " if len(policy["actions"]) > 1 else ""
            text = dimension + ", ".join(shares)
        lines.append(f"  {name:{column}}  {text}")
    return lines
