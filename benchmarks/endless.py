"""Does a flat world dream endlessly? Its ring cache compared with two other methods to remember, on the same weights.

    python benchmarks/endless.py runs/cover-flat --data cover.h5 --out results/endless.json

The methods (ring, recompute, flush) are those of `worldmodel.bench.memory_methods`.

Two questions. Likelihood: how well does each method predict the recorded frames, by frame of the clip, and is there a
cliff where the window begins to slide? Free run: do dreams without terminations, under a scripted policy, look like its
recordings after 10 steps and after 500: share of bright pixels, change from frame to frame, entropy of the codes? A
policy's recordings are those of the episodes that have not ended. The plot is saved next to the JSON.

Shapes: B clips, R dreams, T frames, H W pixels, h w code grid, W frames of memory.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.bench.memory_methods import METHODS, EndlessDreams, nats_per_code, refill_frames
from worldmodel.cli.eval_world import policies_of
from worldmodel.cli.plots import line_plots
from worldmodel.common.errors import UserError
from worldmodel.common.files import atomic_path
from worldmodel.common.memory import keep_freed_memory
from worldmodel.common.run_info import code_version, machine
from worldmodel.data import Dataset
from worldmodel.metrics.evaluation_run import EvaluationRun, EvaluationSettings
from worldmodel.metrics.frame_scores import small_bright
from worldmodel.prior.flat.flat_prior import FlatPrior, as_flat_prior
from worldmodel.world.world_model import WorldModel

MEASURES = {"bright": "share of bright pixels", "motion": "change, levels of 255", "entropy": "entropy of codes, nats"}
NUM_BINS = 20  # of the horizon
CLIFF = 0.02  # nats per code


# -- likelihood ----------------------------------------------------------------------------------------------


def likelihood(trial: EvaluationRun, prior: FlatPrior) -> dict[str, Any]:
    """By method: nats by frame with their standard errors, and two cliffs, paired by clip.

    "cliff": the mean of frames W+1 to 4W minus that of frames W/2 to W, which also holds what changes in a clip as it
    goes on. "less recompute": the mean of frames W+1 to the last, minus the same frames' under "recompute", whose
    window never slides.
    """
    window, result = prior.memory, {}
    nats_of = {
        method: torch.cat(
            [nats_per_code(prior, clip, method) for _, clip in trial.chunks(f"likelihood, {method}")]
        ).double()
        for method in METHODS
    }
    for method, nats in nats_of.items():  # (B, T)
        beyond = (nats - nats_of["recompute"])[:, window + 1 :].mean(1)
        late, early = nats[:, window + 1 : 4 * window + 1].mean(1), nats[:, refill_frames(window) : window + 1].mean(1)
        root = math.sqrt(len(nats))
        result[method] = {
            "nats per code": nats.mean(0).tolist(),
            "standard error": (nats.std(0) / root).tolist(),
            "cliff": float((late - early).mean()),
            "cliff standard error": float((late - early).std() / root),
            "less recompute": float(beyond.mean()),
            "less recompute standard error": float(beyond.std() / root),
            "no cliff": bool(beyond.mean() <= CLIFF),
        }
    return {"clips": len(trial.clips.episodes), **result}


# -- free run ------------------------------------------------------------------------------------------------


class FrameStatistics:
    """Statistics of frames, by bin of their age in steps.

    Args:
        horizon: steps.
        num_codes: V.
        threshold: a pixel brighter than this is bright.
    """

    def __init__(self, horizon: int, num_codes: int, threshold: int) -> None:
        self.edges = np.linspace(0, horizon, min(NUM_BINS, horizon) + 1).round().astype(int)
        self.threshold, count = threshold, len(self.edges) - 1
        self.sums = {name: np.zeros(count) for name in ("frames", "bright", "motion")}
        self.codes = np.zeros((count, num_codes), np.int64)

    def add(self, age: int, before: Tensor, after: Tensor, codes: Tensor) -> None:
        """Add n frames of one age.

        Args:
            age: steps, 1 or more.
            before, after: (n, H, W, 3) uint8, the frames before the step and after it.
            codes: (n, h, w) int64 of the frames after it.
        """
        number = int(np.searchsorted(self.edges, age, side="left")) - 1
        self.sums["frames"][number] += len(after)
        self.sums["bright"][number] += float(small_bright(after, self.threshold).double().mean((1, 2)).sum())
        self.sums["motion"][number] += float((after.short() - before.short()).abs().double().mean((1, 2, 3)).sum())
        self.codes[number] += np.bincount(codes.flatten().numpy(), minlength=self.codes.shape[1])

    def rates(self) -> dict[str, Any]:
        """By bin; None if it has no frames."""
        frames = np.where(self.sums["frames"] > 0, self.sums["frames"], np.nan)
        share = self.codes / np.maximum(self.codes.sum(1, keepdims=True), 1)
        entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(1)
        rates = {
            "bright": self.sums["bright"] / frames,
            "motion": self.sums["motion"] / frames,
            "entropy": np.where(np.isnan(frames), np.nan, entropy),
        }
        return {
            "frames": self.sums["frames"].astype(int).tolist(),
            **{name: [None if np.isnan(v) else float(v) for v in values] for name, values in rates.items()},
        }


def choose_policy(trial: EvaluationRun, name: str) -> tuple[str, np.ndarray]:
    """The policy of this name, or the one with the longest recordings; and its episodes of the split."""
    data, split = trial.data, trial.data.episodes_of(trial.settings.split)
    numbers = {p: np.array([e for e in split if data.policies[e] == p], np.int64) for p in sorted(trial.policies)}
    numbers = {policy: episodes for policy, episodes in numbers.items() if len(episodes)}
    if not numbers or (name and name not in numbers):
        raise UserError(
            f"policy {name!r}: {data.name} has episodes of {', '.join(numbers) or 'no scripted policy'} in its "
            f"{trial.settings.split} split; name one of them with --policy."
        )
    longest = max(numbers, key=lambda policy: float(data.lengths[numbers[policy]].mean()))
    return name or longest, numbers[name or longest]


@torch.no_grad()
def free_run(trial: EvaluationRun, prior: FlatPrior, policy: str) -> dict[str, Any]:
    """Rates by age, of the recordings and of each method's dreams."""
    settings, world = trial.settings, trial.world
    policy, episodes = choose_policy(trial, policy)
    chosen = np.random.default_rng(settings.seed).permutation(episodes)[: settings.rows]

    def statistics() -> FrameStatistics:
        return FrameStatistics(settings.horizon, prior.num_codes, trial.train.bright_threshold)

    real = statistics()
    for number in chosen:
        _add_recording(real, trial, int(number))
    starts = np.resize(chosen, settings.rows)
    _, clip = trial.code_clip(starts, np.zeros_like(starts), 2)
    rates = {"real": real.rates()}
    for method in METHODS:
        dreams, found, begin = EndlessDreams(prior, clip, method, settings.seed), statistics(), time.process_time()
        act = trial.policies[policy](settings.seed, settings.rows)
        before = world.tokenizer.decode(clip.codes[:, :1])[:, 0]
        for t in range(1, settings.horizon + 1):
            codes = dreams.step(torch.as_tensor(np.asarray(act(before.numpy()))))
            after = world.tokenizer.decode(codes[:, None])[:, 0]
            found.add(t, before, after, codes)
            before = after
            trial.progress(f"free run, {method}", t, settings.horizon, {})
        rates[method] = {**found.rates(), "processor s": time.process_time() - begin}
    return {"policy": policy, "rows": settings.rows, "until step": real.edges[1:].tolist(), **rates}


def _add_recording(statistics: FrameStatistics, trial: EvaluationRun, number: int) -> None:
    """Add the valid frames of a recorded episode."""
    data = trial.data
    count = min(trial.settings.horizon, int(data.lengths[number]))
    first = int(data.frame_offsets[number])
    valid = data.flat("frame_valid")[first : first + count + 1]
    frames = torch.from_numpy(data.frames(number, 0, count + 1))
    codes = trial.world.tokenizer.encode(frames[:, None])[:, 0]
    for t in range(1, count + 1):
        if valid[t]:
            statistics.add(t, frames[t - 1 : t], frames[t : t + 1], codes[t : t + 1])


def plot(result: dict[str, Any]) -> bytes:
    """Nats by frame, and each rate by age: a PNG."""
    nats, run = result["likelihood"], result["free run"]
    frames = list(range(1, len(nats["ring"]["nats per code"])))
    lines = [(method, frames, nats[method]["nats per code"][1:]) for method in METHODS]
    panels: list[Any] = [("frame", "nats per code", lines)]
    for name, title in MEASURES.items():
        lines = []
        for method in ("real", *METHODS):
            points = [(x, y) for x, y in zip(run["until step"], run[method][name], strict=True) if y is not None]
            lines.append((method, *map(list, zip(*points, strict=True))))
        panels.append(("step", title, lines))
    return line_plots(panels)


def main() -> None:
    """Measure; write the JSON and the plot."""
    args = parse_arguments()
    torch.set_num_threads(1)
    keep_freed_memory()
    world = WorldModel.from_pretrained(args.world)
    prior = as_flat_prior(world.prior)
    if prior is None or prior.max_frames is not None:
        raise UserError(f"{args.world}: wanted a flat prior with attention window and positions rotary.")
    ahead = max(args.ahead, 3 * prior.memory + 1)
    settings = EvaluationSettings(
        args.split, clips=args.clips, ahead=ahead, horizon=args.horizon, rows=args.rows, seed=args.seed
    )
    with Dataset.open_cropped(args.data, world.spec.pixels) as data:
        trial = EvaluationRun(world, data, policies_of(data), settings, print_progress)
        result = {
            "window": prior.memory,
            "likelihood": likelihood(trial, prior),
            "free run": free_run(trial, prior, args.policy),
            "dataset": data.name,
            "settings": {name: value for name, value in vars(args).items() if name not in ("world", "data", "out")},
            "machine": machine(),
            "code_version": code_version(),
        }
    with atomic_path(args.out) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")
    with atomic_path(args.out.with_suffix(".png")) as temporary:
        temporary.write_bytes(plot(result))
    for method in METHODS:
        row = result["likelihood"][method]
        for name in ("cliff", "less recompute"):
            print(f"{method}: {name} {row[name]:+.4f} +- {row[f'{name} standard error']:.4f} nats per code")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path, help="directory of a world with an endless flat prior")
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=Path("results/endless.json"))
    parser.add_argument("--split", default="test")
    parser.add_argument("--policy", default="", help="the policy that acts; the one with the longest recordings")
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--ahead", type=int, default=0, help="frames of a clip after its first W; at least 3 W + 1")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--horizon", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def print_progress(stage: str, done: int, total: int, _: dict[str, float]) -> None:
    """Print a line at each fifth of a stage."""
    if done == total or done % max(1, total // 5) == 0:
        print(f"{stage}: {done} of {total}", flush=True)


if __name__ == "__main__":
    main()
