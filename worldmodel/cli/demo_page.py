"""The demo's page: what was recorded, learned and dreamed, each figure beside its rival."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldmodel.cli.demo import Demo
    from worldmodel.cli.report import Section


def write(config: Demo, out: Path, seconds: dict[str, float]) -> None:
    """Write report.html from what the stages left in `out`."""
    from worldmodel.cli import report
    from worldmodel.common.run_info import code_version, machine
    from worldmodel.data import Dataset
    from worldmodel.data.summary import summarize

    with Dataset(out / "cover.h5") as data:
        summary, histograms = summarize(data), report.dataset_histograms(data)
    dreamt, judged = _read(out / "dream.json"), _read(out / "judged.json")
    tested = _read(out / "dreamer" / "test.json")["rows"]
    sections = [
        _at_a_glance(dreamt, judged, tested),
        _recorded(config, out, summary, histograms),
        _learned(out, judged),
        _dreamed(out),
        _lived(judged),
        _policy(out, tested),
        report.Section("Try next").code(closing(config, out)),
    ]
    about = machine()
    spent = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    report.write_page(
        out / "report.html",
        f"A learned world of {config.env}",
        f"worldmodel {code_version()}; {about['processor']}, {about['cores']} cores; {spent}.",
        sections,
    )


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def figures_of(judged: dict[str, Any], metric: str) -> list[dict[str, Any]]:
    """The figures of one metric of a judgement; none where it was not measured."""
    return next((s[metric]["values"] for s in judged["sections"].values() if metric in s), [])


def glance(dreamt: dict[str, Any], judged: dict[str, Any], tested: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The figures that say whether the world is worth anything, each with its rival and what follows."""
    rows: list[dict[str, Any]] = []

    def add(says: str, value: dict[str, Any], rival: str, other: dict[str, Any], so: str = "") -> None:
        if value["mean"] is not None and other["mean"] is not None:
            rows.append({"figure": says, "this world": _text(value), "beside": f"{rival}: {_text(other)}", "so": so})

    def compare(metric: str, says: str, rivals: tuple[str, ...], of: str = "", lower: bool = False) -> None:
        for figure in figures_of(judged, metric):
            if figure["label"].startswith(of):
                for rival in (name for name in rivals if name in figure["baselines"]):
                    other = figure["baselines"][rival]
                    add(says, figure["value"], rival, other, _so(figure["value"], other, lower))

    for figure in figures_of(judged, "policy_order")[:2]:
        rival, chance = next(iter(figure["baselines"].items()))
        word = "significantly " if "significant" in figure["label"] else ""
        add(f"order of policies {word}kept in free runs: {figure['verdict']}", figure["value"], rival, chance)
    for metric, says in (
        ("steps_survived", "mean steps survived"),
        ("hit_rate", "hits a step"),
        ("end_rate", "ends a step"),
    ):
        found = figures_of(judged, metric)
        longest = max((_steps(figure["label"]) for figure in found), default=0)
        for figure in found:
            if _steps(figure["label"]) == longest:
                policy = figure["label"].rsplit(",", 1)[0]
                add(
                    f"{says} under {policy} play, {longest} steps", figure["value"], "real", figure["baselines"]["real"]
                )
    compare("nats", "held-out codes, nats a code", ("other actions", "bigram"), "true", lower=True)
    for figure in figures_of(judged, "control_gap"):
        nothing = {"mean": 0.0, "low": 0.0, "high": 0.0}
        so = _so(figure["value"], nothing)
        add("what true actions are worth, nats a code", figure["value"], "actions ignored", nothing, so)
    compare("end_precision", "ends foreseen, average precision", ("chance", "by true status"))
    compare("hit_precision", "hits foreseen, average precision", ("chance", "by true status"))
    compare("end_calibration", "ends, calibration error", ("base rate",), lower=True)
    for of in ("1 ahead", "8 ahead", "15 ahead"):
        compare("bright_recall", f"small bright things found, {of}", ("repeat last",), of)
        compare("psnr", f"PSNR {of}, dB", ("repeat last", "mean frame"), of)
    for row in tested[1:]:
        gain = row["first_minus_this"]
        add(
            "policy that learned only in the dream, return in the real game",
            {"mean": tested[0]["return_mean"], **tested[0]},
            row["policy"],
            {"mean": row["return_mean"], **row},
            "better" if gain["low"] > 0 else "worse" if gain["high"] < 0 else "no difference shown",
        )
    speeds = ", ".join(f"{value:.0f} with {batch} at once" for batch, value in dreamt["steps_per_second"].items())
    rows.append({"figure": "whole steps a second, one thread", "this world": speeds, "beside": "", "so": ""})
    return rows


def _so(value: dict[str, Any], other: dict[str, Any], lower: bool = False) -> str:
    """Better or worse where the two intervals do not touch."""
    if None in (value["low"], value["high"], other["low"], other["high"]):
        return ""
    above, below = value["low"] > other["high"], value["high"] < other["low"]
    if not (above or below):
        return "no difference shown"
    return "better" if above != lower else "worse"


def _steps(of: str) -> int:
    """ "random, 40 steps" -> 40."""
    return int(of.rsplit(",", 1)[-1].split()[0])


def _text(value: dict[str, Any]) -> str:
    low, high = value.get("low"), value.get("high")
    span = "" if low is None or low == high else f" [{low:.3g}, {high:.3g}]"
    return f"{value['mean']:.3g}{span}"


def _at_a_glance(dreamt: dict[str, Any], judged: dict[str, Any], tested: list[dict[str, Any]]) -> Section:
    from worldmodel.cli.report import Section

    words = (
        "Measured on the test split, with 95 % intervals; the real figures of free runs use validation episodes too "
        "(see the notes below). Better and worse mean that the two intervals do not touch, and for the policy that the "
        "interval of the difference on the same seeds leaves out 0; elsewhere nothing is claimed. At temperature 1 a "
        "dream is one sample of what may happen, and some steps ahead the mean frame is hard to beat in pixels. "
        "Gymnasium's and Stable-Baselines3's checkers passed."
    )
    return Section("At a glance").text(words).table(glance(dreamt, judged, tested))


def _recorded(config: Demo, out: Path, summary: dict[str, Any], histograms: bytes) -> Section:
    from worldmodel.cli.report import Section

    section = Section("What was recorded").text(
        f"{summary['num_episodes']} whole episodes of {config.env}, {summary['num_steps']} steps, in one file with a "
        "checksum for each episode. Every episode knows the policy that played it."
    )
    section.table(policy_rows(summary)).image(histograms, "histograms of return, length and actions")
    return section.image(out / "contact-sheet.png", "contact sheet").image(out / "episodes.gif", "episodes")


def _learned(out: Path, judged: dict[str, Any]) -> Section:
    from worldmodel.cli import report

    section = report.Section("What was learned")
    panels = []
    for name, figure, label in (
        ("tokenizer", "reconstruction", "reconstruction loss"),
        ("prior", "codes", "nats a code"),
    ):
        rows = report.read_jsonl(out / "world" / "training" / f"{name}.jsonl")
        lines = [
            (words, [r["step"] for r in rows if key in r], [r[key] for r in rows if key in r])
            for words, key in ((name, figure), ("validation", f"val/{figure}"))
        ]
        panels.append(("steps", label, [line for line in lines if line[1]]))
    section.image(report.curves(panels), "curves")
    words = ""
    for row in figures_of(judged, "reconstruction_psnr"):
        other = row["baselines"]["mean frame"]
        words = f"Reconstruction of test frames: {_text(row['value'])} dB, the mean frame {_text(other)}."
    for row in figures_of(judged, "perplexity"):
        most = row["baselines"]["uniform"]["mean"]
        words += f" Codes in effective use: {row['value']['mean']:.0f} of {most:.0f}."
    return section.text(words)


def _dreamed(out: Path) -> Section:
    from worldmodel.cli.report import Section

    section = Section("What it dreams").text(
        "Clips of the test split, drawn by the seed before anything was seen; every second frame. The dream is given "
        "the frames up to the first one shown and the actions that were really taken. It is one sample: what is not "
        "determined by the past, such as where the next fireball appears, may differ."
    )
    section.image(out / "strip.png", "real, reconstructed and dreamed frames")
    section.image(out / "real-above-dream.gif", "real, through the codes, dreamed")
    return section.text("One start, one action all the time.").image(out / "futures.png", "futures of one start")


def _lived(judged: dict[str, Any]) -> Section:
    from worldmodel.cli.metric_plots import free_run_bars, prediction_curves
    from worldmodel.cli.report import Section

    section = Section("Lives like the real one?").text(
        "Scripted policies played in the dream from true starts, beside their recorded episodes: how often they are "
        "hit and die, how much brightness and motion there is. A world is chosen by whether policies keep their order."
    )
    section.image(free_run_bars(judged), "free runs").text("Pixels by horizon, beside trivial rivals.")
    section.image(prediction_curves(judged), "prediction by horizon")
    for note in judged["notes"]:
        section.text(note, note=True)
    return section


def _policy(out: Path, tested: list[dict[str, Any]]) -> Section:
    from worldmodel.cli import report

    section = report.Section("A policy from the dream").text(
        "PPO saw only dreams. Then it played the real game, on seeds that nothing else used, beside random play and "
        "the blind periodic policy on the same seeds."
    )
    curve = report.read_jsonl(out / "dreamer" / "curve.jsonl") if (out / "dreamer" / "curve.jsonl").exists() else []
    if curve:
        line = ("in the dream", [r["minutes"] for r in curve], [r["return_mean"] for r in curve])
        section.image(report.curves([("minutes", "mean return of 100 episodes", [line])]), "learning curve")
    rows = []
    for row in tested:
        gain = row.get("first_minus_this")
        rows.append(
            {
                "policy": "PPO, from the dream" if row is tested[0] else row["policy"],
                "real return": _text({"mean": row["return_mean"], **row}),
                "median": row["median"],
                "PPO minus this, same seeds": _text(gain) if gain else "",
            }
        )
    return section.table(rows)


def policy_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """A summary's policies as rows of a table."""
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


def closing(config: Demo, out: Path) -> str:
    """What to type next."""
    return (
        f"The page: {out}/report.html\n\n"
        "Try next:\n"
        f"  worldmodel data info {out}/cover.h5\n"
        f"  worldmodel sample --world {out}/world --num 8 --out {out}/sample.gif\n"
        f"  worldmodel eval world {out}/world --data {out}/cover.h5\n"
        f"  worldmodel train world --preset doom-take-cover-small --data {out}/cover.h5 --minutes 60 --out "
        "runs/longer\n"
        "  python -c \"import gymnasium, worldmodel; env = gymnasium.make('worldmodel/Dream-v0', "
        f"world='{out}/world'); print(env.reset(seed=0)[0].shape)\""
    )
