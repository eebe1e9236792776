"""The demo's page: what was recorded, learned and dreamed, each figure beside its rival."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldmodel.demo import Demo
    from worldmodel.report import Section


def write(config: Demo, out: Path, seconds: dict[str, float]) -> None:
    """Write report.html from what the stages left in `out`."""
    from worldmodel import report
    from worldmodel.data import Dataset
    from worldmodel.data.summary import summarize
    from worldmodel.runinfo import code_version, machine

    with Dataset(out / "cover.h5") as data:
        summary, histograms = summarize(data), report.dataset_histograms(data)
    dreamt, judged = _read(out / "dream.json"), _read(out / "judged.json")
    tested = _read(out / "dreamer" / "test.json")["rows"]
    sections = [
        _at_a_glance(dreamt, judged, tested),
        _recorded(config, out, summary, histograms),
        _learned(out, dreamt, judged),
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
    return next((s[metric]["figures"] for s in judged["sections"].values() if metric in s), [])


def glance(dreamt: dict[str, Any], judged: dict[str, Any], tested: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The figures that say whether the world is worth anything, each with its rival and what follows."""
    rows: list[dict[str, Any]] = []

    def add(says: str, value: dict[str, Any], rival: str, other: dict[str, Any], lower_wins: bool = False) -> None:
        if value["mean"] is None or other["mean"] is None:
            return
        ours, theirs = (value, other) if not lower_wins else (other, value)
        low = ours["mean"] if ours["low"] is None else ours["low"]
        high = theirs["mean"] if theirs["high"] is None else theirs["high"]
        word = "better" if low > high else "not better" if ours["mean"] <= theirs["mean"] else "better, not surely"
        rows.append({"figure": says, "this world": _text(value), "beside": f"{rival}: {_text(other)}", "so": word})

    for figure in figures_of(judged, "orders")[:1]:
        add(
            f"order of policies kept in free runs ({figure['verdict']} that reality decides)", figure["value"],
            "a coin", figure["beside"]["a coin"],
        )  # fmt: skip
    for figure in figures_of(judged, "nats"):
        for rival in ("other actions", "bigram"):
            add("held-out codes, nats a code", figure["value"], rival, figure["beside"][rival], lower_wins=True)
    for figure in figures_of(judged, "control_gap"):
        add("what true actions are worth, nats a code", figure["value"], "actions ignored", _sure(0.0))
    for name, says in (("end_precision", "ends foreseen, average precision"), ("hit_precision", "hits foreseen")):
        for figure in figures_of(judged, name):
            add(says, figure["value"], "chance", figure["beside"]["chance"])
    for figure in figures_of(judged, "bright_recall"):
        if figure["of"].startswith("8 "):
            beside = figure["beside"]["repeat last"]
            add("small bright things found, 8 steps ahead", figure["value"], "last frame repeated", beside)
    ahead = figures_of(judged, "psnr")
    for figure in (ahead[0], ahead[-1]) if ahead else ():
        for rival in ("repeat last", "mean frame"):
            add(f"PSNR {figure['of']}, dB", figure["value"], rival, figure["beside"][rival])
    for row in tested[1:]:
        gain = row["first_minus_this"]
        word = "better" if gain["low"] > 0 else "worse" if gain["high"] < 0 else "no difference shown"
        rows.append(
            {
                "figure": "policy that learned only in the dream, return in the real game",
                "this world": _text({"mean": tested[0]["return_mean"], **tested[0]}),
                "beside": f"{row['policy']}: {_text({'mean': row['return_mean'], **row})}",
                "so": word,
            }
        )
    speeds = dreamt["steps_per_second"]
    rows.append(
        {
            "figure": "whole steps a second through the environment, one thread",
            "this world": ", ".join(f"{value:.0f} with {batch} at once" for batch, value in speeds.items()),
            "beside": "",
            "so": "",
        }
    )
    return rows


def _sure(value: float) -> dict[str, float]:
    return {"mean": value, "low": value, "high": value}


def _text(value: dict[str, Any]) -> str:
    low, high = value.get("low"), value.get("high")
    span = "" if low is None or low == high else f" [{low:.3g}, {high:.3g}]"
    return f"{value['mean']:.3g}{span}"


def _at_a_glance(dreamt: dict[str, Any], judged: dict[str, Any], tested: list[dict[str, Any]]) -> Section:
    from worldmodel.report import Section

    words = (
        "Measured on episodes that nothing was learned from, with 95 % intervals; `better` means that the intervals "
        "do not touch. At temperature 1 a dream is one sample of what may happen, so in pixels the mean frame wins "
        "over it some steps ahead: that is no fault. Gymnasium's and Stable-Baselines3's checkers passed."
    )
    return Section("At a glance").text(words).table(glance(dreamt, judged, tested))


def _recorded(config: Demo, out: Path, summary: dict[str, Any], histograms: bytes) -> Section:
    from worldmodel.report import Section

    section = Section("What was recorded").text(
        f"{summary['num_episodes']} whole episodes of {config.env}, {summary['num_steps']} steps, in one file with a "
        "checksum for each episode. Every episode knows the policy that played it."
    )
    section.table(policy_rows(summary)).image(histograms, "histograms of return, length and actions")
    return section.image(out / "contact-sheet.png", "contact sheet").image(out / "episodes.gif", "episodes")


def _learned(out: Path, dreamt: dict[str, Any], judged: dict[str, Any]) -> Section:
    from worldmodel import report

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
    code = figures_of(judged, "perplexity")
    words = f"Reconstruction of held-out frames: {dreamt['psnr']} dB."
    if code:
        words += (
            f" Codes in effective use: {code[0]['value']['mean']:.0f} of {code[0]['beside']['all alike']['mean']:.0f}."
        )
    return section.text(words)


def _dreamed(out: Path) -> Section:
    from worldmodel.report import Section

    section = Section("What it dreams").text(
        "Clips of the test split, drawn by the seed before anything was seen; every second frame. The dream is given "
        "the frames up to the first one shown and the actions that were really taken. It is one sample: what is not "
        "determined by the past, such as where the next fireball appears, may differ."
    )
    section.image(out / "strip.png", "real, reconstructed and dreamed frames")
    section.image(out / "real-above-dream.gif", "real, through the codes, dreamed")
    return section.text("One start, one action all the time.").image(out / "futures.png", "futures of one start")


def _lived(judged: dict[str, Any]) -> Section:
    from worldmodel.metrics.pictures import free_run_bars, prediction_curves
    from worldmodel.report import Section

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
    from worldmodel import report

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
