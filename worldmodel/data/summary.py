"""What a dataset holds, as numbers and as a table of text with small histograms."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldmodel.common import spaces
from worldmodel.common.text import human_bytes
from worldmodel.data.dataset import Dataset

BINS = 20
STILL_EPISODES = 64
_BARS = " ▁▂▃▄▅▆▇█"


def summarize(dataset: Dataset) -> dict[str, Any]:
    """Count and describe a dataset, as JSON.

    Every step is read but not every frame: dead time (the share of frames that equal the one before, so
    that nothing was seen to happen) is taken from at most 64 episodes, evenly chosen.

    Args:
        dataset: an open dataset.

    Returns:
        {"files", "env", "env_kwargs", "action_space", "action_labels", "frame_shape", "frame_skip",
        "max_steps", "variables", "num_episodes", "num_frames", "num_steps", "bytes_on_disk", "frame_bytes",
        "fingerprint", "splits", "lacking_splits", "terminated", "truncated", "ended_by_neither",
        "invalid_last_frames" (shares of episodes), "dead_time": {"share", "episodes_read"},
        "return", "length" (of all episodes) and "policies": one {"name", "hash", "planned_share", "episodes",
        "share", "return", "length", "actions"} each}. A return or length is {"mean", "min", "max",
        "histogram": {"edges", "counts"}}, in reward and in steps, and has the same edges for every policy.
        "actions" is a list, one entry for a Discrete space and one per dimension otherwise: {"counts"} by
        choice, or for Box {"edges", "counts"}.
    """
    header = dataset.header
    ends = dataset.step_offsets + dataset.lengths - 1
    terminated, truncated = (dataset.flat(name)[ends] for name in ("terminations", "truncations"))
    last_valid = dataset.flat("frame_valid")[dataset.frame_offsets + dataset.lengths]
    rewards = dataset.flat("rewards").astype(np.float64)
    returns = np.add.reduceat(rewards, dataset.step_offsets)
    step_policies = np.repeat(dataset.policy_numbers, dataset.lengths)
    return_edges, length_edges = _edges(returns), _edges(dataset.lengths)
    policies = []
    for number, policy in enumerate(header.policies):
        mine = dataset.policy_numbers == number
        if not mine.any():
            continue
        policies.append(
            {
                "name": policy.name,
                "hash": policy.hash,
                "planned_share": policy.share,
                "episodes": int(mine.sum()),
                "share": float(mine.mean()),
                "return": _describe(returns[mine], return_edges),
                "length": _describe(dataset.lengths[mine], length_edges),
                "actions": _actions(dataset.flat("actions")[step_policies == number], header.action_space),
            }
        )
    frame_bytes = dataset.num_frames * int(np.prod(header.pixels.frame_shape))
    return {
        "files": [str(path) for path in dataset.paths],
        "env": header.env,
        "env_kwargs": header.env_kwargs,
        "action_space": header.action_space.to_json(),
        "action_labels": header.to_json()["action_labels"],
        "frame_shape": list(header.pixels.frame_shape),
        "frame_skip": header.frame_skip,
        "max_steps": header.max_steps,
        "variables": list(header.variables),
        "num_episodes": dataset.num_episodes,
        "num_frames": dataset.num_frames,
        "num_steps": dataset.num_steps,
        "bytes_on_disk": sum(path.stat().st_size for path in dataset.paths),
        "frame_bytes": frame_bytes,
        "fingerprint": dataset.fingerprint,
        "splits": dataset.split_counts,
        "lacking_splits": dataset.lacking_splits,
        "terminated": float(terminated.mean()),
        "truncated": float(truncated.mean()),
        "ended_by_neither": float((~terminated & ~truncated).mean()),
        "invalid_last_frames": float((~last_valid).mean()),
        "dead_time": _dead_time(dataset),
        "return": _describe(returns, return_edges),
        "length": _describe(dataset.lengths, length_edges),
        "policies": policies,
    }


def _edges(values: np.ndarray) -> np.ndarray:
    """Edges of `BINS` equal bins over the values, (BINS + 1,); equal values get a bin around them."""
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
    """A histogram of each number of the actions; (S,) or (S, A) in."""
    columns = actions.reshape(len(actions), -1).T  # (A, S)
    if isinstance(space, spaces.Box):
        found = []
        for column, low, high in zip(columns, space.low, space.high, strict=True):
            free = low is None or high is None
            edges = _edges(column) if free else np.linspace(float(low or 0), float(high or 0), BINS + 1)
            found.append({"edges": edges.tolist(), "counts": np.histogram(column, edges)[0].tolist()})
        return found
    if isinstance(space, spaces.Discrete):
        choices = [space.n]
    elif isinstance(space, spaces.MultiBinary):
        choices = [2] * space.n
    else:
        choices = list(space.nvec)
    return [{"counts": np.bincount(column, minlength=n).tolist()} for column, n in zip(columns, choices, strict=True)]


def _dead_time(dataset: Dataset) -> dict[str, Any]:
    """Share of real frames that equal the one before, over a few episodes."""
    numbers = np.unique(np.linspace(0, dataset.num_episodes - 1, STILL_EPISODES).round().astype(int))
    still = total = 0
    for number in numbers:
        frames = dataset.frames(int(number))
        begin = int(dataset.frame_offsets[number])
        real = np.asarray(dataset.flat("frame_valid")[begin + 1 : begin + len(frames)])
        same = (frames[1:] == frames[:-1]).all(axis=(1, 2, 3))
        still, total = still + int((same & real).sum()), total + int(real.sum())
    return {"share": still / total if total else 0.0, "episodes_read": len(numbers)}


def bars(counts: list[int]) -> str:
    """A histogram in one line of text, a sign a bin; any count above none shows."""
    top = max(counts, default=0)
    return "".join(_BARS[-(-count * 8 // top)] if count else " " for count in counts)


def format_summary(summary: dict[str, Any]) -> str:
    """The table of `summarize`'s numbers, for a terminal."""
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
        f"  splits       {splits}",
        f"  ends         {s['terminated']:.1%} terminated, {s['truncated']:.1%} truncated, "
        f"{s['ended_by_neither']:.1%} neither; {s['invalid_last_frames']:.1%} without a last picture",
        f"  dead time    {s['dead_time']['share']:.1%} of frames equal the one before "
        f"({s['dead_time']['episodes_read']} episodes read)",
    ]
    if s["variables"]:
        lines.append(f"  variables    {', '.join(s['variables'])}")
    if s["lacking_splits"]:
        lines.append(f"  note         {s['lacking_splits']}")
    policies = s["policies"]
    rows = [("all", s["num_episodes"], s)] if len(policies) > 1 else []
    rows += [(policy["name"], policy["episodes"], policy) for policy in policies]
    column = max(8, *(len(name) for name, _, _ in rows))
    for what, unit in (("return", ""), ("length", " (steps)")):
        edges = s[what]["histogram"]["edges"]
        span = f"histogram {edges[0]:.4g} to {edges[-1]:.4g}"
        lines += ["", f"  {what + unit:{column}}  episodes      mean       min       max  {span}"]
        for name, episodes, row in rows:
            d = row[what]
            lines.append(
                f"  {name:{column}}  {episodes:8,}  {d['mean']:8.4g}  {d['min']:8.4g}  {d['max']:8.4g}  "
                f"|{bars(d['histogram']['counts'])}|"
            )
    lines += ["", "  actions"]
    for policy in policies:
        lines += _action_lines(policy, s["action_labels"], column)
    return "\n".join(lines) + "\n"


def _action_lines(policy: dict[str, Any], labels: list[Any], column: int) -> list[str]:
    """Shares of each choice, or a histogram of each number of a Box."""
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
            several = f"[{number}] " if len(policy["actions"]) > 1 else ""
            text = several + ", ".join(shares)
        lines.append(f"  {name:{column}}  {text}")
    return lines
