"""Codes learned, frames scored and frames stepped a second of the priors; the flat one's stepping beside other ways.

Shapes: B clips or rows, T frames, h w code grid, K = h*w codes a frame, M frames of memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from worldmodel.bench.bench_worlds import BenchWorld, random_clip
from worldmodel.bench.step_baselines import Appended, Cached, Flushed, Recomputed, Script, same_codes
from worldmodel.bench.timing import Job, Tell, in_turns, rate, ratio
from worldmodel.common.errors import UserError
from worldmodel.prior import FlatPrior

LEARN, SCORE = "learn codes/s", "score frames/s"
OURS = "cached"


@dataclass(frozen=True)
class Way:
    """One way to step: a call, the frames it draws (a share of one where it draws a code), what a frame may see."""

    run: Callable[[], object]
    frames: float
    sees: str


def bench_prior(
    worlds: Sequence[BenchWorld], batches: Sequence[int], seconds: float, rounds: int, tell: Tell | None = None
) -> dict[str, Any]:
    """Measure all priors in turn, with torch's own number of threads.

    Args:
        worlds: whose priors; their weights change.
        batches: rows that the flat priors are stepped with.
        seconds: how long each way is timed, each time; once at least.
        rounds: how often all take turns.
        tell: told of every finished turn.

    Returns:
        "rows", one a prior: parameters, the clips of a step and their frames, codes learned/s and frames
        scored/s. A clip from inside an episode teaches a factored prior its last frame, a flat one all of them.

        "stepping", one a flat prior, batch and way, all on the same weights: ms a frame, of codes alone; how many
        times ours (cached) that is, the median over rounds; and how many frames before its own a frame sees. The
        recomputed way is timed code by code, each a reading of M+1 frames. "same_codes": whether the ways
        draw the same codes wherever they are to be the same (`stepping.same_codes`).

        "load_before": the machine's load average of the minute before; above 0, others were at work.

    Raises:
        UserError: a flat prior whose dreams have an end.
    """
    load = os.getloadavg()[0]
    flat = {w.source: w.world.prior for w in worlds if isinstance(w.world.prior, FlatPrior)}
    for source, known in ((source, prior.max_frames) for source, prior in flat.items()):
        if known is not None:
            raise UserError(
                f"{source}: its flat prior knows {known} frames and no more, so a step has no constant "
                "cost to measure; take one with attention window, positions rotary and scope step."
            )
    same = [same_codes(model.transformer) for model in flat.values()]  # before training moves the weights
    ways = {(s, batch, name): way for s, p in flat.items() for batch in batches for name, way in _ways(p, batch)}
    learning = {(i, kind): run for i, world in enumerate(worlds) for kind, run in _learning(world)}
    jobs: dict[Any, Job] = {key: Job(way.run, seconds) for key, way in ways.items()}
    jobs |= {key: Job(run, seconds) for key, run in learning.items()}
    laps = in_turns(jobs, rounds, tell)
    rows: list[dict[str, Any]] = []
    for i, bench in enumerate(worlds):
        prior, clips, length = bench.world.prior, bench.loop.batch_size, bench.loop.clip_length
        places = prior.grid[0] * prior.grid[1]
        rows.append(
            {
                "prior": bench.prior,
                "of": bench.source,
                "parameters": sum(p.numel() for p in prior.parameters()),
                "codes a frame": places,
                "clips": clips,
                "frames a clip": length,
                LEARN: rate(laps[i, LEARN]) * clips * (length if prior.predicts_whole_clips else 1) * places,
                SCORE: rate(laps[i, SCORE]) * clips * length,
            }
        )
    stepping = [
        {
            "way": name,
            "of": source,
            "batch": batch,
            "frames seen": way.sees,
            "ms a frame": 1e3 / (rate(laps[source, batch, name]) * way.frames),
            "times ours": ratio(laps[source, batch, OURS], laps[source, batch, name]) / way.frames,
        }
        for (source, batch, name), way in ways.items()
    ]
    told = {"stepping": stepping, "same_codes": all(same)} if flat else {}
    return {"rows": rows, **told, "rounds": rounds, "threads": torch.get_num_threads(), "load_before": load}


def _ways(prior: FlatPrior, batch: int) -> list[tuple[str, Way]]:
    """The ways to step a flat prior on from a full window."""
    network, memory = prior.transformer, prior.memory
    script = Script.random(network, batch, memory, 2 * memory + 1)
    cached, recomputed, flushed = Cached(network, script), Recomputed(network, script), Flushed(network, script)
    appended = Appended(network, script)

    def until_flushed() -> None:
        for _ in range(flushed.cycle):
            flushed.frame()

    return [
        (OURS, Way(cached.frame, 1, f"{memory}")),
        ("appended", Way(appended.frame, 1, f"{memory}")),
        ("recomputed", Way(recomputed.code, 1 / (network.num_positions - 1), f"{memory}")),
        ("flushed", Way(until_flushed, flushed.cycle, f"{flushed.half} to {memory}")),
    ]


def _learning(bench: BenchWorld) -> list[tuple[str, Callable[[], object]]]:
    """A step of training, and scoring."""
    prior, loop = bench.world.prior, bench.loop
    clip = random_clip(bench.world, loop.batch_size, loop.clip_length, prior.predicts_whole_clips)
    optimiser = torch.optim.AdamW(prior.parameters(), lr=loop.learning_rate, betas=(0.9, 0.95))

    def learn() -> None:
        prior.train()
        optimiser.zero_grad(set_to_none=True)
        prior.loss(clip)["loss"].backward()
        nn.utils.clip_grad_norm_(prior.parameters(), loop.clip_norm)
        optimiser.step()
        prior.eval()

    return [
        (LEARN, learn),
        (SCORE, lambda: prior.log_prob(clip)),
    ]
