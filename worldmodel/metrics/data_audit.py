"""Audit of a dataset: whether it can teach what it seems to teach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from worldmodel.common.torch_state import isolated_torch_state
from worldmodel.data import Dataset
from worldmodel.metrics.data_alignment import Shift, action_names, alignment
from worldmodel.metrics.inverse_dynamics import class_counts

FRAME_EPISODES = 64  # episodes of which every frame is compared with the one before it
MAX_CONSTANT, MAX_DUPLICATE = 0.01, 0.5  # shares of frames above which there is a warning
MIN_CHOICE = 0.001  # share of steps below which a choice counts as missing
TRAIN_STEPS = 400


@isolated_torch_state()
def audit(data: Dataset, seed: int = 0, train_steps: int = TRAIN_STEPS) -> dict[str, Any]:
    """Audit a dataset.

    Args:
        data: the dataset.
        seed: seed of the classifier and of the choice of steps.
        train_steps: training steps of the classifier.

    Returns:
        JSON: `warnings`, sentences; `alignment`, a list of comparisons of an event's own step with a neighbour;
        `events`, what each event is or why it was not tested; `frames`, shares of constant and duplicated frames;
        `actions`, by component the share of steps of each choice; `episodes`, counts of repeated seeds and episodes;
        `invalid_last_frames`, a share of episodes.
    """
    shifts, events = alignment(data, seed, train_steps)
    frames, actions, episodes = _frames(data), _actions(data), _episodes(data)
    last = data.flat("frame_valid")[data.frame_offsets + data.lengths]
    return {
        "files": [str(path) for path in data.paths],
        "warnings": [*_shift_warnings(shifts), *_warnings(frames, actions, episodes)],
        "alignment": [
            {
                "event": s.event,
                "view": s.view,
                "shift": s.shift,
                "average_precision": s.precision.to_json(),
                "own_average_precision": s.own.to_json(),
                "gain": s.gain.to_json(),
                "better": s.is_better,
            }
            for s in shifts
        ],
        "events": events,
        "frames": frames,
        "actions": actions,
        "episodes": episodes,
        "invalid_last_frames": float((~last).mean()),
    }


def format_audit(result: Mapping[str, Any]) -> str:
    """The result of `audit` as text."""
    lines = [", ".join(result["files"]), "", "ALIGNMENT (average precision of a small classifier on test episodes)"]
    for event, note in result["events"].items():
        lines.append(f"  {event}: {note}")
        for row in result["alignment"]:
            if row["event"] == event:
                own, other, gain = (row[n] for n in ("own_average_precision", "average_precision", "gain"))
                lines.append(
                    f"    {row['view']:<11}  step t {own['mean']:.3f}  step t{row['shift']:+d} {other['mean']:.3f}  "
                    f"difference {_interval(gain)}{'  BETTER' if row['better'] else ''}"
                )
    frames, episodes = result["frames"], result["episodes"]
    lines += [
        "",
        f"frames      {frames['constant']:.1%} of one colour, {frames['duplicate']:.1%} equal to the frame before "
        f"({frames['episodes_read']} episodes read)",
        f"last frames {result['invalid_last_frames']:.1%} of episodes have no valid one",
        f"episodes    {episodes['repeated_seeds']} with a seed of another, {episodes['repeated_episodes']} equal to "
        "another",
        *(f"actions     {row['name']}: {_shares(row['shares'])}" for row in result["actions"]),
        "",
        *(f"WARNING: {warning}" for warning in result["warnings"]),
    ]
    return "\n".join([*lines, *([] if result["warnings"] else ["No warnings."])])


def _interval(estimate: Mapping[str, float | None]) -> str:
    if estimate["low"] is None or estimate["high"] is None:
        return f"{estimate['mean']:.3f}"
    return f"{estimate['mean']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in shares.items())


def _frames(data: Dataset) -> dict[str, Any]:
    """Shares of constant frames and of frames equal to the one before, over at most FRAME_EPISODES episodes."""
    numbers = np.unique(np.linspace(0, len(data) - 1, FRAME_EPISODES).round().astype(int))
    constant = duplicate = total = pairs = 0
    for number in numbers.tolist():
        frames, first = data.frames(number), int(data.frame_offsets[number])
        valid = data.flat("frame_valid")[first : first + len(frames)]
        flat = frames.reshape(len(frames), -1, 3)
        constant += int(((flat == flat[:, :1]).all((1, 2)) & valid).sum())
        duplicate += int(((flat[1:] == flat[:-1]).all((1, 2)) & valid[1:]).sum())
        total, pairs = total + int(valid.sum()), pairs + int(valid[1:].sum())
    return {
        "constant": constant / max(total, 1),
        "duplicate": duplicate / max(pairs, 1),
        "episodes_read": len(numbers),
    }


def _actions(data: Dataset) -> list[dict[str, Any]]:
    """By component of a discrete action the share of steps of each choice; for a Box the signs."""
    header, values = data.header, data.flat("actions")
    columns, counts = values.reshape(len(values), -1).T, class_counts(data.header.action_space)
    labels = header.action_labels
    rows = []
    for i, (name, column) in enumerate(zip(action_names(data), columns, strict=True)):
        of_component = labels[i] if len(labels) == len(columns) and len(columns) > 1 else ""
        if not counts:
            shares = {"negative": column < 0, "zero": column == 0, "positive": column > 0}
            rows.append({"name": name, "shares": {key: float(x.mean()) for key, x in shares.items()}})
            continue
        choices = labels if len(columns) == 1 else of_component if isinstance(of_component, tuple) else ()
        names = [str(x) for x in choices] if len(choices) == counts[i] else [str(j) for j in range(counts[i])]
        share = np.bincount(column, minlength=counts[i]) / len(column)
        rows.append({"name": name, "shares": dict(zip(names, share.tolist(), strict=True))})
    return rows


def _episodes(data: Dataset) -> dict[str, int]:
    """Episodes whose seed, or whose whole content, another episode has too."""
    repeated = {}
    for name, values in (("seeds", data.seeds), ("episodes", np.stack([data.crcs, data.lengths], 1))):
        _, count = np.unique(values, return_counts=True, axis=0)
        repeated[f"repeated_{name}"] = int(count[count > 1].sum())
    return repeated


def _shift_warnings(shifts: list[Shift]) -> list[str]:
    """A sentence for each event that a neighbouring step's frames predict better."""
    warnings = []
    for event in dict.fromkeys(s.event for s in shifts):
        better = [s for s in shifts if s.event == event and s.is_better]
        if better:
            best = max(better, key=lambda s: s.gain.mean)
            plural = "The actions" if event.startswith("action") else f"The {event}s"
            direction = "earlier" if best.shift > 0 else "later"
            warnings.append(
                f"the {event} of step t{best.shift:+d} fits the {best.view} of step t better than that of step t: "
                f"average precision {best.precision.mean:.3f} against {best.own.mean:.3f}. {plural} are probably "
                f"stored one step too {'late' if best.shift > 0 else 'early'}: move them one step {direction}."
            )
    return warnings


def _warnings(frames: Mapping[str, Any], actions: list[dict[str, Any]], episodes: Mapping[str, int]) -> list[str]:
    """Sentences on frames, actions and episodes."""
    warnings = []
    if frames["constant"] > MAX_CONSTANT:
        warnings.append(f"{frames['constant']:.1%} of the frames have one colour: does the renderer work?")
    if frames["duplicate"] > MAX_DUPLICATE:
        warnings.append(f"{frames['duplicate']:.1%} of the frames equal the frame before.")
    for row in actions:
        missing = [name for name, share in row["shares"].items() if share < MIN_CHOICE and name != "zero"]
        if missing:
            warnings.append(f"actions, {row['name']}: almost never {', '.join(missing)}.")
    for name, count in episodes.items():
        if count:
            what = "share their seed with" if name == "repeated_seeds" else "are equal to"
            warnings.append(f"{count} episodes {what} another one: splits may not be independent.")
    return warnings
