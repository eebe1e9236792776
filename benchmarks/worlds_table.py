"""One Markdown table of several outputs of `worldmodel eval world --out FILE.json`, of any worlds.

A result.json of `gpu_worlds.sh` is read too.

    python benchmarks/worlds_table.py take-cover=cover.json push=push.json --steps push=412 --out table.md

A column is a world, a row is a figure: its value, its 95 % interval in brackets and its baselines in parentheses; "-"
where the evaluation has no such figure.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from worldmodel.common.errors import UserError
from worldmodel.common.files import atomic_path
from worldmodel.envs.env_registry import row_of

Evaluation = dict[str, Any]  # what `worldmodel.metrics.evaluate` returns
Value = dict[str, Any]  # "label", "value", "baselines", "verdict"
Cell = Callable[[Evaluation], str]

MISSING = "-"
FRAMES_AHEAD, PERMANENCE_AHEAD = (1, 8, 15), (1, 4, 8, 15)
PSNR_BASELINES = ("repeat last", "reconstruction")
PERMANENCE_BASELINES = ("repeat last", "another clip", "reconstruction")
ALL_STEPS = "all steps"  # label of the inverse dynamics score that is tabulated


def main() -> int:
    """Print the table; 2 after a mistake of the user."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluations", nargs="+", metavar="[NAME=]FILE", help="outputs of `worldmodel eval world`")
    parser.add_argument("--steps", nargs="*", default=[], metavar="NAME=NUMBER", help="whole steps/s of the dreams")
    parser.add_argument("--out", type=Path, help="write the table to this file too")
    args = parser.parse_args()
    try:
        text = table(read_evaluations(args.evaluations), parse_speeds(args.steps))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(text, end="")
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(args.out) as temporary:
            temporary.write_text(text)
    return 0


def read_evaluations(arguments: list[str]) -> dict[str, Evaluation]:
    """Evaluations by the name of their column.

    Args:
        arguments: each FILE, whose name is that of its environment, or NAME=FILE.

    Raises:
        UserError: a file is missing or is no evaluation of a world, or two columns have the same name.
    """
    found: dict[str, Evaluation] = {}
    for argument in arguments:
        name, _, path = argument.rpartition("=")
        try:
            content = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is no output of 'worldmodel eval world': {error}.") from None
        stages = content.get("stages", {}) if isinstance(content, dict) else {}
        evaluation = stages.get("evaluate", {}).get("figures", content)
        if not isinstance(evaluation, dict) or not {"environment", "sections"} <= set(evaluation):
            raise UserError(f"{path} is no output of 'worldmodel eval world': it has no sections.")
        row = row_of(evaluation["environment"])
        name = name or (evaluation["environment"] if row is None else row.name)
        if name in found:
            raise UserError(f"two columns are called {name!r}; give them names as NAME=FILE.")
        found[name] = evaluation
    return found


def parse_speeds(arguments: list[str]) -> dict[str, float]:
    """Whole steps per second by column, from NAME=NUMBER.

    Raises:
        UserError: not of that form.
    """
    speeds = {}
    for argument in arguments:
        name, _, number = argument.rpartition("=")
        try:
            speeds[name] = float(number)
        except ValueError:
            raise UserError(f"--steps {argument!r}: wanted NAME=NUMBER, as push=412.") from None
    return speeds


def table(evaluations: dict[str, Evaluation], speeds: dict[str, float] | None = None) -> str:
    """The Markdown table.

    Args:
        evaluations: by the name of their column.
        speeds: whole steps per second of some columns; None or {} leaves the row out.

    Raises:
        UserError: a speed of an unknown column.
    """
    unknown = set(speeds or {}) - set(evaluations)
    if unknown:
        raise UserError(f"--steps names {sorted(unknown)}; the columns are {', '.join(evaluations)}.")
    lines = [["", *evaluations], ["---"] * (1 + len(evaluations))]
    lines += [[label, *(cell(e) or MISSING for e in evaluations.values())] for label, cell in rows()]
    if speeds:
        lines.append(["whole steps/s", *(f"{speeds[name]:.4g}" if name in speeds else MISSING for name in evaluations)])
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def rows() -> Iterator[tuple[str, Cell]]:
    """Label and cell of each row."""
    yield "likelihood, nats/code", one("nats", "true actions")
    yield "action gap, nats/code", one("control_gap", "other actions - true")
    for k in FRAMES_AHEAD:
        yield f"delta-PSNR, {k} ahead, dB", one("delta_psnr", f"{k} ahead")
    for k in FRAMES_AHEAD:
        yield f"PSNR, {k} ahead, dB", one("psnr", f"{k} ahead", PSNR_BASELINES)
    yield (
        "inverse dynamics on dreams, F1 or R²",
        one("inverse_dynamics", ALL_STEPS, ("reconstruction", "real frames", "chance")),
    )
    yield "the same, dream / reconstruction", one("inverse_dynamics", f"{ALL_STEPS}, dream / reconstruction")
    yield "opposite actions, share in order", several("opposite_actions", ("real frames",))
    for k in PERMANENCE_AHEAD:
        yield f"permanence, {k} ahead", permanence(k)
    for k in PERMANENCE_AHEAD:
        yield f"permanence of objects that moved, {k} ahead", permanence(k, "moved")
    for name, label in (
        ("end_rate", "ends per step, free run"),
        ("hit_rate", "hits per step, free run"),
        ("reward_rate", "reward per step, free run"),
        ("steps_survived", "steps survived, free run"),
    ):
        yield label, at_longest_horizon(name)
    yield "order of policies kept", one("policy_order", "all", verdict=True)
    yield "ends, average precision", one("end_precision", "", None)
    yield "ends, calibration error", one("end_calibration", "")
    yield "ends, mean probability", one("end_mean", "", ("real",))
    yield "reward, root mean squared error", one("reward_error", "", None)


# -- cells -----------------------------------------------------------------------------------------------------


def one(metric: str, label: str, baselines: tuple[str, ...] | None = (), verdict: bool = False) -> Cell:
    """The value with a label.

    Args:
        metric: name of the metric.
        label: of the value.
        baselines: those that are shown; None for all.
        verdict: whether the verdict is shown.
    """

    def cell(evaluation: Evaluation) -> str:
        return next((text(v, baselines, verdict) for v in values(evaluation, metric) if v["label"] == label), "")

    return cell


def several(metric: str, baselines: tuple[str, ...] | None) -> Cell:
    """All values of a metric, each after its label."""
    return lambda evaluation: labelled(values(evaluation, metric), baselines)


def permanence(ahead: int, kind: str = "") -> Cell:
    """The permanence of a kind; without a kind that of all objects, or of the only kind where there is one."""

    def cell(evaluation: Evaluation) -> str:
        found = [v for v in values(evaluation, "permanence") if v["label"].endswith(f"{kind}, {ahead} ahead")]
        return text(found[0], PERMANENCE_BASELINES) if found else ""  # "all" is the first where there are several

    return cell


def at_longest_horizon(metric: str) -> Cell:
    """A rate of each policy over its longest horizon; labels are "POLICY, STEPS steps"."""

    def cell(evaluation: Evaluation) -> str:
        last = {value["label"].rpartition(",")[0]: value for value in values(evaluation, metric)}
        return labelled(list(last.values()), ("real",))

    return cell


def labelled(found: list[Value], baselines: tuple[str, ...] | None) -> str:
    """Values with their labels, one below the other in a cell."""
    return "<br>".join(f"{value['label']}: {text(value, baselines)}" for value in found)


def values(evaluation: Evaluation, metric: str) -> list[Value]:
    """The values of a metric; [] where it was not evaluated."""
    return next((section[metric]["values"] for section in evaluation["sections"].values() if metric in section), [])


def text(value: Value, baselines: tuple[str, ...] | None = (), verdict: bool = False) -> str:
    """A value with its interval, and some of its baselines without theirs."""
    shown = {name: b for name, b in value["baselines"].items() if baselines is None or name in baselines}
    notes = [f"{name} {number(estimate['mean'])}" for name, estimate in shown.items()]
    if verdict and value["verdict"]:
        notes.append(value["verdict"])
    estimate = value["value"]
    interval = "" if estimate["low"] is None else f" [{number(estimate['low'])}, {number(estimate['high'])}]"
    return f"{number(estimate['mean'])}{interval}" + (f" ({', '.join(notes)})" if notes else "")


def number(x: float | None) -> str:
    """Three digits, more where they are before the point."""
    if x is None:
        return MISSING
    return f"{x:.0f}" if abs(x) >= 1000 else f"{x:.3g}"


if __name__ == "__main__":
    sys.exit(main())
