"""The same model of clips with and without actions, at reduced size (VideoGPT, figure 6 and appendix B).

    python benchmarks/with_without_actions.py --data push.h5 --out runs/twin --given-frames 1 --minutes 10

Trains one tokenizer of clips and two priors on it, OUT/with-actions and OUT/without-actions, which differ in
`--prior.actions` alone. Both are evaluated on the same test clips by `worldmodel eval video` in the protocol of
iVideoGPT's table 1: given frames are left out of PSNR, SSIM and LPIPS, which count the best of --best-of samples; FVD
is of whole clips. The budget is processor time: --minutes for the tokenizer and for each prior.

OUT/samples.png and OUT/samples.gif show test clips and several samples of one action sequence. OUT/table.md and
OUT/figures.json have all figures, also two that depend on no picture network: nats per code with the true actions, with
another clip's and without, and the spread of the samples of one action sequence. A stage that is done is kept, one that
was stopped continues: repeat the command.

Shapes: N clips, S samples of a clip, L frames, H W pixels.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.cli.ablate_command import steps_done
from worldmodel.cli.videos import frame_strips, video_grid, write_video
from worldmodel.common.files import atomic_path, write_json_atomic
from worldmodel.data import Dataset
from worldmodel.data.clips import Batch
from worldmodel.metrics.clip_sources import DEFAULT_SAMPLING, recorded_clips
from worldmodel.metrics.diversity import sample_spread
from worldmodel.metrics.metric_registry import select_clip_metrics
from worldmodel.metrics.statistics import ratio
from worldmodel.prior.clip.clip_conditioning import Conditioning
from worldmodel.world.clip_model import ClipModel

WITH, WITHOUT, TOKENIZER = "with-actions", "without-actions", "tokenizer"
BOUND = "reconstructions"
METRICS = "fvd,kvd,psnr,ssim,lpips,nmse"
DRAWN_CLIPS, DRAWN_SAMPLES, DRAWN_FRAMES, DRAWN_SIZE = 3, 3, 8, 128  # frames of a row and pixels of a frame in pictures
SPREAD_CLIPS, SPREAD_SAMPLES = 16, 8
BATCH_SIZE = 16
HEADS = 4
FLOOR = "other real clips"


def parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a dataset with actions")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10.0, help="processor time of each of the three trainings")
    parser.add_argument("--steps", type=int, nargs=2, metavar=("TOKENIZER", "PRIOR"), help="in place of --minutes")
    parser.add_argument("--given-frames", type=int, default=1, help="0: as the paper's ViZDoom models")
    parser.add_argument("--frames", type=int, default=16, help="frames of a clip")
    parser.add_argument("--strides", type=strides, default="4x8", help="of the tokenizer, frames x pixels per code")
    parser.add_argument("--width", type=int, default=64, help="channels of the tokenizer")
    parser.add_argument("--codes", type=int, default=512, help="codes of the codebook")
    parser.add_argument("--prior-width", type=int, default=128)
    parser.add_argument("--prior-layers", type=int, default=4)
    parser.add_argument("--batch-size", type=int, nargs=2, default=(8, 8), metavar=("TOKENIZER", "PRIOR"))
    parser.add_argument("--learning-rate", type=float, nargs=2, default=(2e-3, 2e-3), metavar=("TOKENIZER", "PRIOR"))
    parser.add_argument("--num", type=int, default=256, help="test clips of every figure")
    parser.add_argument("--best-of", type=int, default=10, help="samples of a clip in metrics of pairs")
    parser.add_argument("--metrics", default=METRICS, help="of `worldmodel eval video`")
    parser.add_argument("--seed", type=int, default=0, help="of trainings, test clips and samples")
    parser.add_argument("--threads", type=int, default=1)
    return parser


def strides(text: str) -> str:
    """The flag --strides, checked."""
    if not re.fullmatch(r"\d+x\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r}: wanted TIMExSPACE, frames and pixels per code, such as 4x8")
    return text


def main() -> int:
    """Run the stages that are not done, and write the table after each."""
    args = parser().parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    trainings = training_commands(args)
    for command in trainings.values():
        run(command, args.threads)
    made_by = [word for command in trainings.values() for word in command]
    stages: dict[str, tuple[list[str], Callable[[], Any]]] = {
        "likelihood": (["--num", str(args.num)], lambda: likelihoods(*load(args, args.num))),
        "samples": ([str(DRAWN_SIZE)], lambda: draw_samples(args.out, *load(args, SPREAD_CLIPS), args.seed)),
    }
    for name, command in evaluation_commands(args).items():
        stages[name] = (command, lambda name=name, command=command: evaluate(args.out / f"{name}.json", command, args))
    for name, (settings, make) in stages.items():
        stage(args.out / "stages" / f"{name}.json", [*made_by, *settings], make)
        text = write_report(args)
    print(text, end="")
    return 0


def training_commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """The words of `worldmodel` that train the tokenizer and the two priors."""
    time_stride, space_stride = args.strides.split("x")

    def loop(index: int, name: str, validations: int) -> list[str]:
        flags: dict[str, Any] = {
            "clock": "processor",
            "clip-length": args.frames,
            "batch-size": args.batch_size[index],
            "learning-rate": args.learning_rate[index],
            "warmup-steps": 20,
            "validations": validations,
        }
        flags |= {"num-steps": args.steps[index]} if args.steps else {"minutes": args.minutes}
        return [word for flag, value in flags.items() for word in (f"--{name}.{flag}", str(value))]

    common = ["--data", str(args.data), "--seed", str(args.seed)]
    commands = {
        TOKENIZER: [
            *("train", "tokenizer", *common, "--out", str(args.out / TOKENIZER), "--tokenizer.time", "clip"),
            *("--tokenizer.time-stride", time_stride, "--tokenizer.space-stride", space_stride),
            *("--tokenizer.clip-length", str(args.frames), "--tokenizer.width", str(args.width)),
            *(
                "--tokenizer.residual-width",
                "32",
                "--tokenizer.num-codes",
                str(args.codes),
                "--tokenizer.code-dim",
                "64",
            ),
            *loop(0, "train-tokenizer", 1),
        ]
    }
    for name, actions in ((WITH, "clip"), (WITHOUT, "none")):
        commands[name] = [
            *("train", "clip", *common, "--out", str(args.out / name), "--from-tokenizer", str(args.out / TOKENIZER)),
            *("--prior.actions", actions, "--prior.num-given-frames", str(args.given_frames)),
            *("--prior.num-frames", str(args.frames), "--prior.width", str(args.prior_width)),
            *("--prior.num-layers", str(args.prior_layers), "--prior.num-heads", str(HEADS)),
            "--prior.previous-frame",  # for short trainings; both models have it
            *loop(1, "train-prior", 0),  # the image of a validation takes a pass of the prior for each code
        ]
    return commands


def evaluation_commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """The words of `worldmodel` that evaluate both models, and the reconstructions by their tokenizer.

    Without given frames a sample does not continue a test clip, so that metrics of pairs are of reconstructions only.
    """
    rows = select_clip_metrics(args.metrics.split(","))
    sets = [row.name for row in rows if not row.is_paired]
    pairs = [row.name for row in rows if row.is_paired]
    sampled = [*sets, *(pairs if args.given_frames else [])]
    commands = {}
    for name, names in ((WITH, sampled), (WITHOUT, sampled), (BOUND, sets + pairs)):
        if not names:
            continue
        model = args.out / (WITH if name == BOUND else name)
        flags = ["--likelihood"] if name != BOUND else ["--reconstruct"]
        if name != BOUND and any(metric in pairs for metric in names):
            flags += ["--best-of", str(args.best_of)]
        commands[name] = [
            *("eval", "video", str(args.data), str(model), "--protocol", "videogpt", "--metrics", ",".join(names)),
            *("--num", str(args.num), "--context-frames", str(args.given_frames), "--seed", str(args.seed), *flags),
            *(["--floor"] if sets else []),
            *("--out", str(args.out / f"{name}.json"), "--force"),
        ]
    return commands


def stage(path: Path, settings: list[str], make: Callable[[], Any]) -> Any:
    """The result of a stage: that of an earlier command with the same settings, or a new one, which is kept."""
    if path.exists():
        stored = json.loads(path.read_text())
        if stored["settings"] == settings:
            return stored["result"]
    begin = processor_seconds()
    result = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    seconds = round(processor_seconds() - begin, 1)
    write_json_atomic(path, {"result": result, "processor_seconds": seconds, "settings": settings})
    return result


def processor_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def run(words: list[str], threads: int) -> None:
    """Run `worldmodel`; its output goes to stderr. If it fails, this command ends with its exit code."""
    print(" ".join(["worldmodel", *words]), file=sys.stderr, flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TQDM_MININTERVAL": "10"}
    done = subprocess.run([sys.executable, "-m", "worldmodel", *words], env=environment, stdout=sys.stderr)
    if done.returncode:
        sys.exit(done.returncode)


def evaluate(path: Path, words: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Metric -> its first value with interval and baselines, from the file that `worldmodel eval video` writes."""
    run(words, args.threads)
    sections = json.loads(path.read_text())["sections"]
    return {name: found["values"][0] for rows in sections.values() for name, found in rows.items() if found["values"]}


def load(args: argparse.Namespace, num: int) -> tuple[dict[str, ClipModel], list[Batch[Tensor]]]:
    """Both models, and the first test clips that the evaluation has, too."""
    models = {name: ClipModel.from_pretrained(args.out / name) for name in (WITH, WITHOUT)}
    with Dataset.open_cropped(args.data, models[WITH].spec.pixels) as data:
        return models, list(recorded_clips(data, args.frames, min(num, args.num), "test", args.seed, BATCH_SIZE))


@torch.no_grad()
def likelihoods(models: dict[str, ClipModel], batches: list[Batch[Tensor]]) -> dict[str, Any]:
    """Nats per code of test clips: with their actions, with another clip's, and of the model without actions.

    The given frames are the clip's own in all three. Intervals are over episodes; differences are paired by clip.

    Args:
        models: both, with the same tokenizer.
        batches: of test clips.

    Returns:
        The three estimates, the two differences to the true actions, `clips` and `codes`, those of a clip.
    """
    actions = torch.cat([batch.actions for batch in batches]).roll(1, 0).split(BATCH_SIZE)
    nats: dict[str, list[Tensor]] = {"true actions": [], "another clip's actions": [], "no actions": []}
    num_codes = 0
    for batch, other in zip(batches, actions, strict=True):
        codes = models[WITH].tokenizer.encode(batch.frames)
        given = models[WITH].conditioning_of(batch)
        conditions = (
            (WITH, given),
            (WITH, Conditioning(actions=other, frames=given.frames)),
            (WITHOUT, models[WITHOUT].conditioning_of(batch)),
        )
        num_codes = codes[0].numel()
        for found, (name, condition) in zip(nats.values(), conditions, strict=True):
            found.append(-models[name].prior.log_prob(codes, condition).double() / num_codes)
    per_clip = {name: torch.cat(found).numpy() for name, found in nats.items()}  # (N,) nats per code
    true, other_actions, none = per_clip.values()
    per_clip |= {"another clip's - true": other_actions - true, "none - true": none - true}
    episodes = torch.cat([batch.episode for batch in batches]).numpy()
    values = {name: ratio(x, np.ones(len(x)), units=episodes).to_json() for name, x in per_clip.items()}
    return {**values, "clips": len(true), "codes": num_codes}


def draw_samples(out: Path, models: dict[str, ClipModel], batches: list[Batch[Tensor]], seed: int) -> dict[str, Any]:
    """Write samples.png and samples.gif, and measure the spread of the samples of one action sequence.

    Sample s of clip i has the same noise seed in both models.

    Returns:
        Model -> estimate of the spread in grey levels (0 to 255): the root of the mean variance (divisor S-1) over the
        pixels of all frames that are not given, mean over clips; `clips`, `samples` and the test clips in the pictures.
    """
    real = torch.cat([batch.frames for batch in batches])  # (N, L, H, W, 3)
    samples = {name: sample_clips(model, batches, seed) for name, model in models.items()}
    spreads = {}
    for name, clips in samples.items():
        predicted = clips[:, :, models[name].prior.config.num_given_frames :]
        spread = np.asarray([sample_spread(samples) for samples in predicted])  # (N,)
        spreads[name] = ratio(spread, np.ones(len(spread))).to_json()
    write_pictures(out, real.numpy()[:DRAWN_CLIPS], {name: clips[:DRAWN_CLIPS] for name, clips in samples.items()})
    drawn = [
        {"episode": int(episode), "start": int(start)}
        for batch in batches
        for episode, start in zip(batch.episode, batch.start, strict=True)
    ][:DRAWN_CLIPS]
    return {**spreads, "clips": len(real), "samples": SPREAD_SAMPLES, "drawn": drawn}


def sample_clips(model: ClipModel, batches: list[Batch[Tensor]], seed: int) -> np.ndarray:
    """Samples with the conditions of each clip, (N, S, L, H, W, 3) uint8."""
    found = []
    for batch in batches:
        given = model.conditioning_of(batch)
        repeated = given.select(torch.arange(len(batch.frames)).repeat_interleave(SPREAD_SAMPLES))
        num = len(batch.frames) * SPREAD_SAMPLES
        clips = model.sample(num, None, repeated.actions, seed, DEFAULT_SAMPLING, repeated.frames).cpu().numpy()
        found.append(clips.reshape(len(batch.frames), SPREAD_SAMPLES, *clips.shape[1:]))
        seed += num
    return np.concatenate(found)


def write_pictures(out: Path, real: np.ndarray, samples: dict[str, np.ndarray]) -> None:
    """Write samples.png, a row for each clip, and samples.gif, a row for each test clip.

    Args:
        out: the folder.
        real: (N, L, H, W, 3) uint8.
        samples: model -> (N, S, L, H, W, 3) uint8; the first samples are drawn.
    """
    rows: list[tuple[str, np.ndarray]] = []
    for i, clip in enumerate(real):
        rows.append((f"real {i + 1}", clip))
        for name, clips in samples.items():
            label = name.replace("-", "\n")
            rows += [(f"{label} {s + 1}", clips[i, s]) for s in range(DRAWN_SAMPLES)]
    scale, every = max(1, DRAWN_SIZE // real.shape[2]), -(-real.shape[1] // DRAWN_FRAMES)
    with atomic_path(out / "samples.png") as temporary:
        temporary.write_bytes(frame_strips([(label, clip[::every]) for label, clip in rows], scale))
    columns = 1 + DRAWN_SAMPLES * len(samples)
    grid = video_grid([clip.repeat(scale, 1).repeat(scale, 2) for _, clip in rows], columns)  # (L, H', W', 3)
    titles = [label.replace("\n", " ") for label, _ in rows[:columns]]
    header = np.broadcast_to(titles_strip(["real", *titles[1:]], grid.shape[2]), (len(grid), 20, grid.shape[2], 3))
    with atomic_path(out / "samples.gif") as temporary:
        write_video(temporary, np.concatenate([header, grid], 1), ".gif", fps=6.0, scale=1)


def titles_strip(titles: list[str], width: int) -> np.ndarray:
    """Titles side by side in equal columns, (20, width, 3) uint8."""
    from PIL import Image, ImageDraw, ImageFont

    strip = Image.new("RGB", (width, 20), "white")
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(size=13)
    for i, title in enumerate(titles):
        draw.text((i * width // len(titles) + 3, 2), title, fill="black", font=font)
    return np.asarray(strip)


def write_report(args: argparse.Namespace) -> str:
    """Write figures.json and table.md from the stages that are done; returns the table."""
    stages = {path.stem: json.loads(path.read_text()) for path in sorted((args.out / "stages").glob("*.json"))}
    logs = {TOKENIZER: "tokenizer", WITH: "prior", WITHOUT: "prior"}
    trainings = {
        name: {"steps": steps_done(args.out / name, logs[name]), "command": ["worldmodel", *command]}
        for name, command in training_commands(args).items()
    }
    figures = {
        "settings": {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()},
        "trainings": trainings,
        "results": {name: stored["result"] for name, stored in stages.items()},
        "processor_seconds": {name: stored["processor_seconds"] for name, stored in stages.items()},
    }
    write_json_atomic(args.out / "figures.json", figures)
    text = table(figures)
    with atomic_path(args.out / "table.md") as temporary:
        temporary.write_text(text)
    return text


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown; stages that are not done have no cells."""
    settings, results, trainings = figures["settings"], figures["results"], figures["trainings"]
    evaluations = {name: results[name] for name in (WITH, WITHOUT, BOUND) if name in results}
    metrics = [row.name for row in select_clip_metrics(settings["metrics"].split(","))]
    budget = f"{settings['minutes']:g} minutes of processor time each"
    if settings["steps"]:
        budget = "{} and {} steps".format(*settings["steps"])
    steps = ", ".join(f"{name} {found['steps']}" for name, found in trainings.items())
    lines = [
        f"Data {Path(settings['data']).name}, {settings['num']} test clips of {settings['frames']} frames, "
        f"{settings['given_frames']} given, best of {settings['best_of']} samples in metrics of pairs, "
        f"seed {settings['seed']}. Tokenizer and priors: {budget}; strides {settings['strides']}, "
        f"{settings['codes']} codes, tokenizer width {settings['width']}, "
        f"prior {settings['prior_layers']} x {settings['prior_width']}; steps: {steps}.",
    ]
    if evaluations:
        lines += ["", markdown_row(["", *metrics]), markdown_row(["---"] * (1 + len(metrics)))]
    lines += [
        markdown_row([name.replace("-", " "), *(interval(found.get(metric, {}).get("value")) for metric in metrics)])
        for name, found in evaluations.items()
    ]
    first: dict[str, Any] = next(iter(evaluations.values()), {})
    floors = [first.get(metric, {}).get("baselines", {}).get(FLOOR) for metric in metrics]
    if any(floors):
        lines.append(markdown_row([FLOOR, *map(interval, floors)]))
    if "likelihood" in results:
        found = {name: value for name, value in results["likelihood"].items() if isinstance(value, dict)}
        lines += ["", markdown_row(["nats per code of test clips", "mean [95 % interval]"]), markdown_row(["---"] * 2)]
        lines += [markdown_row([name, interval(value, 4)]) for name, value in found.items()]
    if "samples" in results:
        title = f"spread of {results['samples']['samples']} samples of one action sequence, grey levels"
        lines += ["", markdown_row([title, "mean [95 % interval]"]), markdown_row(["---"] * 2)]
        spreads = {name.replace("-", " "): results["samples"][name] for name in (WITH, WITHOUT)}
        lines += [markdown_row([name, interval(value, 2)]) for name, value in spreads.items()]
    return "\n".join(lines) + "\n"


def markdown_row(cells: list[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def interval(estimate: dict[str, float | None] | None, digits: int = 3) -> str:
    """Mean and 95 % interval, if it has one; "-" for no estimate."""
    if estimate is None or estimate["mean"] is None:
        return "-"
    mean = f"{estimate['mean']:.{digits}f}"
    return mean if estimate["low"] is None else f"{mean} [{estimate['low']:.{digits}f}, {estimate['high']:.{digits}f}]"


if __name__ == "__main__":
    sys.exit(main())
