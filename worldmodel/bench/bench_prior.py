"""Priors: codes trained, frames scored and frames sampled per second; the flat prior's sampler and its baselines.

Shapes: B clips or rows, T frames, h w code grid, K = h*w codes per frame, M frames of memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from worldmodel.bench.bench_worlds import BenchWorld, random_clip
from worldmodel.bench.step_baselines import (
    AppendedCacheSampler,
    FlushedCacheSampler,
    RecomputeSampler,
    RingCacheSampler,
    SamplerInputs,
    same_codes,
)
from worldmodel.bench.timing import Job, Measurement, Progress, median_ratio, rate_figures, time_jobs
from worldmodel.common.errors import UserError
from worldmodel.prior.flat.flat_prior import FlatPrior, as_flat_prior

TRAIN, SCORE = "train codes/s", "score frames/s"
RING = "ring cache"  # the prior's own sampler


@dataclass(frozen=True)
class SamplerJob:
    """One method to sample frames from a flat prior.

    Attributes:
        run: samples frames.
        num_frames: how many; a fraction if it samples single codes.
        visible: how many frames before it a frame is conditioned on.
    """

    run: Callable[[], object]
    num_frames: float
    visible: str


def bench_prior(
    worlds: Sequence[BenchWorld], batches: Sequence[int], seconds: float, rounds: int, progress: Progress | None = None
) -> dict[str, Any]:
    """Measure all priors in interleaved rounds, with torch's own number of threads.

    Args:
        worlds: whose priors; their weights change.
        batches: numbers of rows that the flat priors are sampled with.
        seconds: duration of each measurement; one repetition at least.
        rounds: repetitions.
        progress: called after every measurement.

    Returns:
        "rows", one for each prior: parameters, the clips of a training step and their frames, codes trained/s and
        frames scored/s. A clip from inside an episode trains a factored prior on its last frame, a flat one on all.

        "stepping", one for each flat prior, batch and method, all on the same weights: ms per frame, of the codes
        alone; its ratio to the ring cache, the median over rounds; and how many frames before it a frame is
        conditioned on. "recompute" is timed code by code, each a forward pass over M+1 frames. "same_codes":
        whether the methods sample the same codes wherever they must (`step_baselines.same_codes`).

        "load_before": the machine's load average in the minute before; above 0, other processes were running.

    Raises:
        UserError: a flat prior of a fixed number of frames.
    """
    load = os.getloadavg()[0]
    flat = {w.source: prior for w in worlds if (prior := as_flat_prior(w.world.prior)) is not None}
    for source, prior in flat.items():
        if prior.max_frames is not None:
            raise UserError(
                f"{source}: its flat prior has at most {prior.max_frames} frames, so a step has no constant cost to "
                "measure; take one with attention window and positions rotary."
            )
    same = [same_codes(prior.transformer) for prior in flat.values()]  # before training changes the weights
    samplers = {
        (s, batch, name): job for s, p in flat.items() for batch in batches for name, job in _samplers(p, batch)
    }
    jobs: dict[Any, Job] = {key: Job(job.run, seconds) for key, job in samplers.items()}
    jobs |= {(i, kind): Job(run, seconds) for i, world in enumerate(worlds) for kind, run in _training(world)}
    measured = time_jobs(jobs, rounds, progress)
    rows = [_training_row(bench, measured[i, TRAIN], measured[i, SCORE]) for i, bench in enumerate(worlds)]
    stepping = [
        {
            "method": name,
            "source": source,
            "batch": batch,
            "frames visible": job.visible,
            **_milliseconds(measured[source, batch, name], job.num_frames),
            "x ring cache": median_ratio(measured[source, batch, RING], measured[source, batch, name]) / job.num_frames,
        }
        for (source, batch, name), job in samplers.items()
    ]
    comparison = {"stepping": stepping, "same_codes": all(same)} if flat else {}
    return {"rows": rows, **comparison, "rounds": rounds, "threads": torch.get_num_threads(), "load_before": load}


def _training_row(bench: BenchWorld, training: list[Measurement], scoring: list[Measurement]) -> dict[str, Any]:
    prior, clips, length = bench.world.prior, bench.loop.batch_size, bench.loop.clip_length
    places = prior.grid[0] * prior.grid[1]
    return {
        "prior": bench.prior,
        "source": bench.source,
        "parameters": sum(p.numel() for p in prior.parameters()),
        "codes per frame": places,
        "clips": clips,
        "frames per clip": length,
        **rate_figures(TRAIN, training, clips * (length if prior.predicts_whole_clips else 1) * places),
        **rate_figures(SCORE, scoring, clips * length),
    }


def _milliseconds(measured: list[Measurement], num_frames: float) -> dict[str, Any]:
    """Median and interval of the milliseconds per frame."""
    rate = rate_figures("rate", measured, num_frames)
    slowest, fastest = rate["rate interval"]
    return {"ms per frame": 1e3 / rate["rate"], "ms per frame interval": [1e3 / fastest, 1e3 / slowest]}


def _samplers(prior: FlatPrior, batch: int) -> list[tuple[str, SamplerJob]]:
    """The methods to sample from a flat prior, each from a full window on."""
    network, memory = prior.transformer, prior.memory
    inputs = SamplerInputs.random(network, batch, memory, 2 * memory + 1)
    ring, recompute = RingCacheSampler(network, inputs), RecomputeSampler(network, inputs)
    appended, flushed = AppendedCacheSampler(network, inputs), FlushedCacheSampler(network, inputs)

    def sample_until_flush() -> None:
        for _ in range(flushed.cycle):
            flushed.sample_frame()

    return [
        (RING, SamplerJob(ring.sample_frame, 1, f"{memory}")),
        ("appended cache", SamplerJob(appended.sample_frame, 1, f"{memory}")),
        ("recompute", SamplerJob(recompute.sample_code, 1 / (network.num_positions - 1), f"{memory}")),
        ("flushed cache", SamplerJob(sample_until_flush, flushed.cycle, f"{flushed.refill} to {memory}")),
    ]


def _training(bench: BenchWorld) -> list[tuple[str, Callable[[], object]]]:
    """A training step, and scoring, of the same clips."""
    prior, loop = bench.world.prior, bench.loop
    clip = random_clip(bench.world, loop.batch_size, loop.clip_length, prior.predicts_whole_clips)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=loop.learning_rate, betas=(0.9, 0.95))

    def train() -> None:
        prior.train()
        optimizer.zero_grad(set_to_none=True)
        prior.loss(clip)["loss"].backward()
        nn.utils.clip_grad_norm_(prior.parameters(), loop.clip_norm)
        optimizer.step()
        prior.eval()

    return [
        (TRAIN, train),
        (SCORE, lambda: prior.log_prob(clip)),
    ]
