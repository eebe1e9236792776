"""Speed of one optimisation step of a clip preset at full size: the package's training loop and a plain eager loop.

Three kinds of jobs alternate in one process, for the tokenizer and then for the prior:

- `package`: a step of `worldmodel.train.training_loops.tokenizer_steps` or `worldmodel.train.clip_stage.clip_steps`, as
  `worldmodel train clip` takes it: reading clips from a dataset file, loss, backward pass, checks, clipping, AdamW and
  learning rate. Logs, validations and checkpoints are off.
- `plain`: the loop that a user would write for the same module: zero_grad, loss, backward, clip_grad_norm_ and
  torch.optim.AdamW with its defaults. The clips are in memory.
- `compiled` (`--compile`): the plain loop with `torch.compile` of the loss.
- `matmul N`: float32 products of N x N matrices; the fastest one of a round is the machine's rate.

All loops of a part train the same module. A step of the prior begins with frames: the frozen tokenizer encodes them, in
the plain loop too, as in VideoGPT's public code, since the codes of a clip depend on where it begins. All jobs run in a
process that keeps freed memory (`worldmodel.common.memory`), as every training of the package does.

FLOPs are those of `torch.utils.flop_counter.FlopCounterMode` in a step of the plain loop: matrix products, convolutions
and attention, forward and backward, two for each multiply-add. Attention of the CPU is added here, with half of the
products where it is causal. What activation checkpointing computes twice is counted twice. The share of the matmul rate
is FLOP/s of the step divided by FLOP/s of the fastest product of the same round. With `--processor-time` all of these
are per second of processor time; give `--threads 1` then.

    python benchmarks/paper_speed.py --out speed.json --preset bair --batch 1 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from paper_steps import NUM_CLASSES, make_model, random_conditioning
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from worldmodel.bench.timing import Job, Measurement, median_ratio, time_jobs
from worldmodel.common import spaces
from worldmodel.common.runtime import choose_runtime
from worldmodel.data import Dataset, Episode, Header, PartWriter, PolicyRecord, seal
from worldmodel.prior.clip.clip_prior import ClipPrior
from worldmodel.tokenizer import Tokenizer
from worldmodel.train.clip_batches import ClipBatches
from worldmodel.train.clip_presets import CLIP_PRESETS
from worldmodel.train.clip_stage import clip_steps
from worldmodel.train.clip_training_config import ClipTraining
from worldmodel.train.training_config import LoopConfig, TokenizerTraining, stage_config
from worldmodel.train.training_loops import tokenizer_steps
from worldmodel.train.training_run import TrainingRun
from worldmodel.world.clip_model import ClipModel

SIZES = (1024, 1536, 2048)  # of the measured products
ENDLESS = 10**9  # steps
Shape = Sequence[int]


def causal_share(query: Shape, key: Shape, is_causal: bool) -> float:
    """The share of products that causal attention needs; (..., n, d) each."""
    return (query[-2] + 1) / (2 * key[-2]) if is_causal else 1.0


def attention_flops(q: Shape, k: Shape, v: Shape, dropout: float = 0, is_causal: bool = False, **_: Any) -> int:
    """FLOPs of the CPU's attention, whose arguments are those of torch's operator."""
    return round(sdpa_flop_count(q, (*q[:2], *k[2:]), (*q[:2], *v[2:])) * causal_share(q, k, is_causal))


def attention_backward_flops(
    grad: Shape, q: Shape, k: Shape, v: Shape, out: Shape, sums: Shape, dropout: float, is_causal: bool, **_: Any
) -> int:
    """FLOPs of its backward pass."""
    keys, values = (*q[:2], *k[2:]), (*q[:2], *v[2:])
    return round(sdpa_backward_flop_count(grad, q, keys, values) * causal_share(q, k, is_causal))


def flop_counter() -> FlopCounterMode:
    """A counter that also counts attention on the CPU."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    mapping = {attention: attention_flops, backward: attention_backward_flops}
    return FlopCounterMode(display=False, custom_mapping=mapping)


class PlainLoop:
    """The training loop that a user would write.

    Args:
        module: trained in place.
        batch: makes the arguments of `module.loss`.
        rate: learning rate.

    Attributes:
        flops: of the first step.
    """

    def __init__(self, module: Tokenizer | ClipPrior, batch: Callable[[], tuple[Any, ...]], rate: float) -> None:
        self.module, self.batch = module, batch
        self.optimiser = torch.optim.AdamW(module.parameters(), lr=rate)
        self.flops = 0

    def step(self, loss: Callable[..., dict[str, torch.Tensor]] | None = None) -> None:
        """One optimisation step; `loss` replaces `module.loss`."""
        self.optimiser.zero_grad()
        (loss or self.module.loss)(*self.batch())["loss"].backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimiser.step()

    def counted_step(self) -> None:
        """A step; the first one, which `time_jobs` does not time, counts its FLOPs."""
        if self.flops:
            self.step()
            return
        with flop_counter() as counter:
            self.step()
        self.flops = counter.get_total_flops()


def write_noise(path: Path, model: ClipModel, training: ClipTraining, batch: int) -> Path:
    """A dataset of noise, one clip in an episode, with the actions and labels that the model is conditioned on."""
    rng, space, steps = np.random.default_rng(0), model.spec.action_space, training.prior.num_frames - 1
    count = max(10, 2 * batch)
    header = Header(
        env="benchmark/noise",
        pixels=model.spec.pixels,
        action_space=space,
        policies=(PolicyRecord("random"),),
        class_names=model.class_names,
        seed=0,
        num_episodes=count,
    )
    part = path.with_suffix(".part")
    with PartWriter(part, header, durable=False) as writer:
        for index in range(count):
            shape = (steps, *space.shape)
            numbers = rng.uniform(-1, 1, shape).astype(np.float32)
            writer.append(
                Episode(
                    frames=rng.integers(0, 256, (steps + 1, *model.spec.pixels.frame_shape), np.uint8),
                    frame_valid=np.ones(steps + 1, bool),
                    actions=numbers if isinstance(space, spaces.Box) else rng.integers(0, 2, shape),
                    rewards=np.zeros(steps, np.float32),
                    terminations=np.zeros(steps, bool),
                    truncations=np.zeros(steps, bool),
                    index=index,
                    seed=index,
                    policy="random",
                    label=index % NUM_CLASSES if model.class_names else None,
                )
            )
    return seal([part], path)


def make_loops(
    part: str, model: ClipModel, data: Dataset, training: ClipTraining, run: TrainingRun, clips: torch.Tensor
) -> tuple[Iterator[int], PlainLoop]:
    """The steps of the package and the plain loop, of the tokenizer or of the prior."""
    valid, tokenizer = torch.ones(clips.shape[:2], dtype=torch.bool), model.tokenizer
    if part == "tokenizer":
        config = stage_config(training, TokenizerTraining)
        plain = PlainLoop(tokenizer, lambda: (clips, valid), training.train_tokenizer.learning_rate)
        return tokenizer_steps(tokenizer, data, config, run), plain
    tokenizer.eval()
    conditioning, has_loss = random_conditioning(model, clips), valid.all(1)
    plain = PlainLoop(
        model.prior, lambda: (tokenizer.encode(clips), conditioning, has_loss), training.train_prior.learning_rate
    )
    return clip_steps(model, ClipBatches(model, data), training, run), plain


def matmul_jobs(threads: int, seconds: float) -> dict[str, Job]:
    """A product of square matrices for each size."""
    jobs = {}
    for size in SIZES:
        a, b, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
        jobs[f"matmul {size}"] = Job(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), seconds, threads)
    return jobs


def matmul_rates(found: Mapping[str, Sequence[Measurement]]) -> list[float]:
    """FLOP/s of the fastest product of each round."""
    rates = [[2 * size**3 / min(m.seconds) for m in found[f"matmul {size}"]] for size in SIZES]
    return [max(rate) for rate in zip(*rates, strict=True)]


def row(part: str, loop: str, found: Mapping[str, Sequence[Measurement]], flops: int) -> dict[str, Any]:
    """The figures of one loop: seconds of a step, its time as a ratio to the plain loop, share of the matmul rate."""
    seconds = np.asarray([x for m in found[loop] for x in m.seconds])
    ratios = [median_ratio([m], [baseline]) for m, baseline in zip(found[loop], found["plain"], strict=True)]
    matmul = matmul_rates(found)
    shares = [flops * m.rate / rate for m, rate in zip(found[loop], matmul, strict=True)]
    low, middle, high = np.quantile(seconds, (0.25, 0.5, 0.75)).tolist()
    return {
        "part": part,
        "loop": loop,
        "steps": len(seconds),
        "seconds": middle,
        "seconds quartiles": [low, high],
        "speed relative to plain": median(ratios),
        "speed relative to plain interval": [min(ratios), max(ratios)],
        "FLOPs of a step": flops,
        "FLOP/s": flops / middle,
        "matmul FLOP/s": median(matmul),
        "share of matmul": median(shares),
        "share of matmul interval": [min(shares), max(shares)],
    }


def measure_part(part: str, model: ClipModel, training: ClipTraining, folder: Path, options: Any) -> list[dict]:
    """Rows of the tokenizer or of the prior."""
    data_path = folder / "noise.h5"
    with Dataset(data_path) as data:
        run = TrainingRun(folder / part, choose_runtime("cpu", options.threads))
        run.log_folder.mkdir(parents=True)
        generator = torch.Generator().manual_seed(0)
        clips = torch.randint(0, 256, (options.batch, *model.clip_shape), dtype=torch.uint8, generator=generator)
        steps, plain = make_loops(part, model, data, training, run, clips)
        runs: dict[str, Callable[[], object]] = {"package": lambda: next(steps), "plain": plain.counted_step}
        if options.compile:
            compiled = torch.compile(plain.module.loss)
            runs["compiled"] = lambda: plain.step(compiled)
        jobs = {name: Job(step, options.seconds, options.threads) for name, step in runs.items()}
        products = matmul_jobs(options.threads, min(0.5, options.seconds or 0.5))
        clock = time.process_time if options.processor_time else time.perf_counter
        found = time_jobs({**jobs, **products}, options.rounds, print_progress, clock)
        steps.close()  # type: ignore[attr-defined]
    for parameter in model.parameters():
        parameter.grad = None
    return [row(part, name, found, plain.flops) for name in runs]


def print_progress(done: int, total: int) -> None:
    """Show how many of the measurements are done."""
    print(f"\r{done}/{total}", end="\n" if done == total else "", flush=True)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| Part | Loop | Seconds per step [quartiles] | Speed relative to plain [range] | GFLOP/s | Share of matmul |",
        "|---|---|---|---|---|---|",
    ]
    for found in rows:
        low, high = found["seconds quartiles"]
        least, most = found["speed relative to plain interval"]
        lines.append(
            f"| {found['part']} | {found['loop']} | {found['seconds']:.3g} [{low:.3g}, {high:.3g}] | "
            f"{found['speed relative to plain']:.3f} [{least:.3f}, {most:.3f}] | {found['FLOP/s'] / 1e9:.1f} | "
            f"{found['share of matmul']:.0%} of {found['matmul FLOP/s'] / 1e9:.1f} |"
        )
    return "\n".join(lines)


def configure(options: argparse.Namespace) -> ClipTraining:
    """The preset with the batch of the options, and without end, logs, validations and checkpoints."""

    def endless(loop: LoopConfig) -> LoopConfig:
        quiet = {"log_every": ENDLESS, "validations": 0, "checkpoint_seconds": math.inf}
        return replace(loop, num_steps=ENDLESS - 1, batch_size=options.batch, **quiet)

    training = CLIP_PRESETS[options.preset]
    return replace(
        training,
        train_tokenizer=endless(training.train_tokenizer),
        train_prior=endless(training.train_prior),
        activation_checkpointing=options.activation_checkpointing,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both parts of a preset, print a table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="bair", choices=list(CLIP_PRESETS), metavar="NAME", help="bair")
    parser.add_argument("--parts", nargs="+", default=["tokenizer", "prior"], choices=("tokenizer", "prior"))
    parser.add_argument("--batch", type=int, default=1, help="clips of a step")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; after one untimed step of each loop")
    parser.add_argument("--seconds", type=float, default=0.0, help="of each loop in a round, at least one step")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="count the time of this process only, of all its threads, for a machine that does other work too",
    )
    parser.add_argument("--activation-checkpointing", action="store_true", help="in all loops; needs less memory")
    parser.add_argument("--compile", action="store_true", help="measure the plain loop with torch.compile too")
    parser.add_argument("--out", type=Path, help="file of the figures, JSON")
    options = parser.parse_args(arguments)
    training, load = configure(options), os.getloadavg()
    torch.manual_seed(0)
    model, rows = make_model(options.preset, training.prior.attention), []
    model.prior.transformer.activation_checkpointing = options.activation_checkpointing
    with tempfile.TemporaryDirectory() as name:
        write_noise(Path(name) / "noise.h5", model, training, options.batch)
        for part in options.parts:
            rows += measure_part(part, model, training, Path(name), options)
    settings = {key: value for key, value in vars(options).items() if key not in ("out", "parts")}
    machine = {"torch": torch.__version__, "processor": platform.processor(), "load before": load}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(table(rows))
    print(f"peak memory {peak:.2f} GB; load before {load[0]:.1f}, after {os.getloadavg()[0]:.1f}")
    if options.out is not None:
        figures = {**settings, **machine, "load after": os.getloadavg(), "peak_gb": round(peak, 2), "rows": rows}
        options.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
