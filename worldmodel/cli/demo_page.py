"""The demo's report.html: what was recorded, learned and dreamed, each figure compared with its baseline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldmodel.cli.key_figures import key_figures, values_of

if TYPE_CHECKING:
    from worldmodel.cli.demo import Demo
    from worldmodel.cli.html_page import Section


def write_report(config: Demo, out: Path, seconds: dict[str, float]) -> None:
    """Write report.html from the products of the stages.

    Args:
        config: the demo's.
        out: its directory.
        seconds: duration of each stage.
    """
    from worldmodel.cli.html_page import Section, write_page
    from worldmodel.cli.plots import dataset_histograms
    from worldmodel.common.run_info import code_version, machine
    from worldmodel.data import Dataset
    from worldmodel.data.summary import summarize

    with Dataset(out / "cover.h5") as data:
        summary, histograms = summarize(data), dataset_histograms(data)
    dream, evaluation = _read(out / "dream.json"), _read(out / "evaluation.json")
    test_rows = _read(out / "dreamer" / "test.json")["rows"]
    sections = [
        Section("In short").figures(key_figures(dream, evaluation, test_rows, _policy_world(config))),
        _dataset_section(config, out, summary, histograms),
        _training_section(out, evaluation),
        _dream_section(out),
        _free_run_section(evaluation),
        _policy_section(config, out, test_rows),
        _table_section(dream, evaluation, test_rows),
        Section("Try next").code(next_commands(config, out)),
    ]
    computer = machine()
    durations = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    write_page(
        out / "report.html",
        f"A learned world of {config.env}",
        f"worldmodel {code_version()}; {computer['processor']}, {computer['cores']} cores; {durations}.",
        sections,
    )


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def summary_rows(
    dream: dict[str, Any], evaluation: dict[str, Any], test_rows: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The figures that decide whether the world is useful, each with a baseline and a verdict."""
    rows: list[dict[str, Any]] = []

    def add(title: str, value: dict[str, Any], name: str, baseline: dict[str, Any], verdict: str = "") -> None:
        if value["mean"] is not None and baseline["mean"] is not None:
            compared = f"{name}: {_format(baseline)}"
            rows.append({"figure": title, "this world": _format(value), "baseline": compared, "verdict": verdict})

    def compare(metric: str, title: str, names: tuple[str, ...], start: str = "", lower: bool = False) -> None:
        for figure in values_of(evaluation, metric):
            if figure["label"].startswith(start):
                for name in (name for name in names if name in figure["baselines"]):
                    baseline = figure["baselines"][name]
                    add(title, figure["value"], name, baseline, _verdict(figure["value"], baseline, lower))

    for figure in values_of(evaluation, "policy_order")[:2]:
        name, chance = next(iter(figure["baselines"].items()))
        significantly = "significantly " if "significant" in figure["label"] else ""
        add(f"order of policies {significantly}kept in free runs: {figure['verdict']}", figure["value"], name, chance)
    for metric, title in (
        ("steps_survived", "mean steps survived"),
        ("hit_rate", "hits per step"),
        ("end_rate", "terminations per step"),
    ):
        figures = values_of(evaluation, metric)
        longest = max((_num_steps(figure["label"]) for figure in figures), default=0)
        for figure in figures:
            if _num_steps(figure["label"]) == longest:
                policy = figure["label"].rsplit(",", 1)[0]
                add(f"{title}, {policy} policy, {longest} steps", figure["value"], "real", figure["baselines"]["real"])
    compare("nats", "held-out codes, nats per code", ("other actions", "bigram"), "true", lower=True)
    for figure in values_of(evaluation, "control_gap"):
        zero = {"mean": 0.0, "low": 0.0, "high": 0.0}
        verdict = _verdict(figure["value"], zero)
        add("gain from the true actions, nats per code", figure["value"], "actions ignored", zero, verdict)
    compare("end_precision", "predicted terminations, average precision", ("chance", "by true status"))
    compare("hit_precision", "predicted hits, average precision", ("chance", "by true status"))
    compare("end_calibration", "predicted terminations, calibration error", ("base rate",), lower=True)
    for horizon in ("1 ahead", "8 ahead", "15 ahead"):
        compare("bright_recall", f"small bright objects, recall {horizon}", ("repeat last",), horizon)
        compare("psnr", f"PSNR {horizon}, dB", ("repeat last", "mean frame"), horizon)
    for row in test_rows[1:]:
        gain = row["first_minus_this"]
        add(
            "policy trained only in the dream, return in the real game",
            {"mean": test_rows[0]["return_mean"], **test_rows[0]},
            row["policy"],
            {"mean": row["return_mean"], **row},
            "better" if gain["low"] > 0 else "worse" if gain["high"] < 0 else "no significant difference",
        )
    speeds = ", ".join(f"{value:.0f} in a batch of {batch}" for batch, value in dream["steps_per_second"].items())
    rows.append({"figure": "whole steps per second, one thread", "this world": speeds, "baseline": "", "verdict": ""})
    return rows


def _verdict(value: dict[str, Any], baseline: dict[str, Any], lower: bool = False) -> str:
    """Better or worse if the two intervals do not overlap; `lower`: smaller values are better."""
    if None in (value["low"], value["high"], baseline["low"], baseline["high"]):
        return ""
    above, below = value["low"] > baseline["high"], value["high"] < baseline["low"]
    if not (above or below):
        return "no significant difference"
    return "better" if above != lower else "worse"


def _num_steps(label: str) -> int:
    """ "random, 40 steps" -> 40."""
    return int(label.rsplit(",", 1)[-1].split()[0])


def _format(value: dict[str, Any]) -> str:
    """The mean, with its interval if there is one."""
    low, high = value.get("low"), value.get("high")
    interval = "" if low is None or low == high else f" [{low:.3g}, {high:.3g}]"
    return f"{value['mean']:.3g}{interval}"


def _table_section(dream: dict[str, Any], evaluation: dict[str, Any], test_rows: list[dict[str, Any]]) -> Section:
    from worldmodel.cli.html_page import Section

    text = (
        "All figures are measured on the test split, with 95 % intervals; the real figures of the free runs also use "
        "validation episodes (see the notes below). Better and worse mean that the two intervals do not overlap, and "
        "for the policy that the interval of the paired difference excludes 0. At temperature 1 a dream is one sample "
        "of several possible futures, so some frames ahead the mean frame has a high PSNR. The environment checkers "
        "of Gymnasium and Stable-Baselines3 passed."
    )
    return Section("All figures").text(text).table(summary_rows(dream, evaluation, test_rows))


def _dataset_section(config: Demo, out: Path, summary: dict[str, Any], histograms: bytes) -> Section:
    from worldmodel.cli.html_page import Section

    section = Section("Dataset").text(
        f"{summary['num_episodes']} whole episodes of {config.env}, {summary['num_steps']} steps, in one file with a "
        "checksum for each episode. The file names the policy of each episode."
    )
    section.table(policy_rows(summary)).image(histograms, "histograms of return, length and actions")
    return section.image(out / "contact-sheet.png", "contact sheet").image(out / "episodes.gif", "episodes")


def _training_section(out: Path, evaluation: dict[str, Any]) -> Section:
    from worldmodel.cli.html_page import Section
    from worldmodel.cli.plots import line_plots, read_json_lines

    section = Section("Training")
    panels = []
    for name, figure, label in (
        ("tokenizer", "reconstruction", "reconstruction loss"),
        ("prior", "codes", "nats per code"),
    ):
        rows = read_json_lines(out / "world" / "training" / f"{name}.jsonl")
        lines = [
            (line, [r["step"] for r in rows if key in r], [r[key] for r in rows if key in r])
            for line, key in ((name, figure), ("validation", f"val/{figure}"))
        ]
        panels.append(("steps", label, [line for line in lines if line[1]]))
    section.image(line_plots(panels), "losses of tokenizer and prior")
    text = ""
    for row in values_of(evaluation, "reconstruction_psnr"):
        baseline = row["baselines"]["mean frame"]
        text = f"PSNR of reconstructed test frames: {_format(row['value'])} dB; the mean frame: {_format(baseline)} dB."
    for row in values_of(evaluation, "perplexity"):
        most = row["baselines"]["uniform"]["mean"]
        text += f" Codes in effective use (perplexity): {row['value']['mean']:.0f} of {most:.0f}."
    return section.text(text)


def _dream_section(out: Path) -> Section:
    from worldmodel.cli.html_page import Section

    section = Section("Dreams").text(
        "Clips of the test split, chosen by the seed; every second frame is shown. The dream is conditioned on the "
        "recorded frames up to the first one shown, and then on the recorded actions. It is one sample: what the past "
        "does not determine, such as the place of the next fireball, may differ."
    )
    section.image(out / "strip.png", "real, reconstructed and dreamed frames")
    section.image(out / "real-above-dream.gif", "real, reconstructed and dreamed videos")
    return section.text("One start, with one action repeated.").image(out / "futures.png", "futures of one start")


def _free_run_section(evaluation: dict[str, Any]) -> Section:
    from worldmodel.cli.html_page import Section
    from worldmodel.cli.metric_plots import free_run_bars, prediction_curves

    section = Section("Free runs and prediction").text(
        "Scripted policies act in the dream from recorded starts, and are compared with their recorded episodes: rates "
        "of hits and terminations, brightness and motion. A world is useful for training policies if it keeps their "
        "order."
    )
    section.image(free_run_bars(evaluation), "rates in free runs")
    section.text("Prediction of pixels by horizon, compared with trivial baselines.")
    section.image(prediction_curves(evaluation), "prediction by horizon")
    for note in evaluation["notes"]:
        section.text(note, note=True)
    return section


def _policy_section(config: Demo, out: Path, test_rows: list[dict[str, Any]]) -> Section:
    from worldmodel.cli.html_page import Section
    from worldmodel.cli.plots import line_plots, read_json_lines

    section = Section("Policy trained in dreams").text(
        f"PPO was trained only in dreams of {_policy_world(config)}. It was then tested in the real game on seeds that "
        "nothing else used, and compared with random play and with the periodic policy, which ignores the frames, on "
        "the same seeds."
    )
    path = out / "dreamer" / "curve.jsonl"
    curve = read_json_lines(path) if path.exists() else []
    if curve:
        line = ("in the dream", [r["minutes"] for r in curve], [r["return_mean"] for r in curve])
        section.image(line_plots([("minutes", "mean return of 100 episodes", [line])]), "learning curve")
    rows = []
    for row in test_rows:
        gain = row.get("first_minus_this")
        rows.append(
            {
                "policy": "PPO, from the dream" if row is test_rows[0] else row["policy"],
                "real return": _format({"mean": row["return_mean"], **row}),
                "median": row["median"],
                "PPO minus this, same seeds": _format(gain) if gain else "",
            }
        )
    return section.table(rows)


def _policy_world(config: Demo) -> str:
    """The world that the policy learned in, for a sentence."""
    from worldmodel.world.hub import shipped_worlds

    if not config.policy_world:
        return "this demo's world"
    shipped = config.policy_world in shipped_worlds()
    return f"the world {config.policy_world}" + (", which comes with the package" if shipped else "")


def policy_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The policies of a dataset's summary as rows of a table."""
    return [
        {
            "policy": policy["name"],
            "episodes": policy["episodes"],
            "mean return": policy["return"]["mean"],
            "mean steps": policy["length"]["mean"],
            "longest": policy["length"]["max"],
        }
        for policy in summary["policies"]
    ]


def next_commands(config: Demo, out: Path) -> str:
    """Where the report is, and commands to try next."""
    return (
        f"The report: {out}/report.html\n\n"
        "Try next:\n"
        f"  worldmodel data info {out}/cover.h5\n"
        f"  worldmodel sample --world {out}/world --num 8 --out {out}/sample.gif\n"
        f"  worldmodel eval world {out}/world --data {out}/cover.h5\n"
        f"  worldmodel train world --preset doom-take-cover-small --data {out}/cover.h5 --minutes 60 --out "
        "runs/longer\n"
        "  python -c \"import gymnasium, worldmodel; env = gymnasium.make('worldmodel/Dream-v0', "
        f"world='{out}/world'); print(env.reset(seed=0)[0].shape)\""
    )
