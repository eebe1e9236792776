"""Does a flat world's dream go on for ever? Its ring beside two other ways to remember, on the same weights.

    python benchmarks/endless.py runs/cover-flat --data cover.h5 --out results/endless.json

Ring: what the world does, the keys and values of the last W frames, computed when those frames were drawn. Recompute:
before each frame the last W are read anew, as if nothing had been before them. Flush: keys and values are kept until
W + 1 frames are there, then dropped, and the last half window is read anew.

Two questions. Likelihood: how well does each way predict what was recorded, by frame of the clip: is there a cliff
where the window begins to slide? Free run: do dreams without ends, under a scripted policy, look like its recordings
after 10 steps and after 500: share of bright pixels, change from frame to frame, entropy of the codes? A policy's
recordings are of those episodes that still live. The picture stands beside the JSON.

Shapes: B clips, R dreams, T frames, h w code grid, W frames of memory, K codes a frame.
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

from worldmodel.cli import report
from worldmodel.cli.eval_world import policies_of
from worldmodel.common.errors import UserError
from worldmodel.common.files import atomic_path
from worldmodel.common.memory import keep_freed_memory
from worldmodel.common.run_info import code_version, machine
from worldmodel.data import Dataset
from worldmodel.metrics.frame_scores import small_bright
from worldmodel.metrics.world_trial import EvaluationSettings, WorldTrial
from worldmodel.prior import FlatPrior
from worldmodel.prior.code_clip import CodeClip
from worldmodel.prior.flat.flat_prior import FlatState
from worldmodel.prior.sampling import Sampling, uniforms
from worldmodel.world.world_model import WorldModel

WAYS = ("ring", "recompute", "flush")
MEASURES = {"bright": "share of bright pixels", "motion": "change, levels of 255", "entropy": "entropy of codes, nats"}
BINS = 20  # of the horizon
CLIFF = 0.02  # nats a code


def half(window: int) -> int:
    """Frames that the flushed cache begins anew with."""
    return max(1, window // 2)


# -- likelihood ----------------------------------------------------------------------------------------------


def part(clip: CodeClip, begin: int, end: int) -> CodeClip:
    """Frames begin to end - 1 of each clip, and the steps between them."""
    steps = ("actions", "rewards", "terminations", "truncations")
    return CodeClip(**{name: x[:, begin : end - (name in steps)] for name, x in vars(clip).items()})


def nats(prior: FlatPrior, clip: CodeClip, way: str) -> Tensor:
    """Nats a code of each frame as a way predicts it: (B, T)."""
    window, length = prior.memory, clip.frame_valid.shape[1]
    if way == "ring":
        parts = [(0, 0, length)]
    elif way == "recompute":
        parts = [(0, 0, window + 1), *((t - window, t, t + 1) for t in range(window + 1, length))]
    else:
        cycle = window + 1 - half(window)
        parts = [(0, 0, window + 1)]
        parts += [(t - half(window), t, min(t + cycle, length)) for t in range(window + 1, length, cycle)]
    # of each part: where its reading begins, and which frames it says something of
    said = [-prior.log_prob(part(clip, begin, end))[:, first - begin :] for begin, first, end in parts]
    return torch.cat(said, 1) / math.prod(prior.grid)


def likelihood(trial: WorldTrial, prior: FlatPrior) -> dict[str, Any]:
    """By way: nats by frame with their standard errors, and two cliffs, paired by clip.

    "cliff": frames W+1..4W less frames W/2..W, which also holds what changes in a clip as it goes on. "less recompute":
    frames W+1 to the end, less what the same frames are to a reader of the last W alone, whose window never slides.
    """
    window, found = prior.memory, {}
    told = {
        way: torch.cat([nats(prior, clip, way) for _, clip in trial.chunks(f"likelihood, {way}")]).double()
        for way in WAYS
    }
    for way, said in told.items():
        slid = (said - told["recompute"])[:, window + 1 :].mean(1)
        late, early = said[:, window + 1 : 4 * window + 1].mean(1), said[:, half(window) : window + 1].mean(1)
        error = math.sqrt(len(said))
        found[way] = {
            "nats a code": said.mean(0).tolist(),
            "standard error": (said.std(0) / error).tolist(),
            "cliff": float((late - early).mean()),
            "cliff standard error": float((late - early).std() / error),
            "less recompute": float(slid.mean()),
            "less recompute standard error": float(slid.std() / error),
            "no cliff": bool(slid.mean() <= CLIFF),
        }
    return {"clips": len(trial.clips.episodes), **found}


# -- free run ------------------------------------------------------------------------------------------------


class Dreams:
    """R dreams that never end, remembered in one of the ways.

    Args:
        prior: whose.
        clip: R recorded clips; the first frame of each is where its dream begins.
        way: how it remembers.
        seed: row i's numbers are those of seed + i.
    """

    def __init__(self, prior: FlatPrior, clip: CodeClip, way: str, seed: int) -> None:
        self.prior, self.way, self.held, self.time = prior, way, 1, 0
        self.codes, self.actions, self.status = [clip.codes[:, 0]], [], clip.status[:, 0]
        self.seeds = torch.arange(len(clip.codes)) + seed
        self.blank = clip.actions[:, :0]
        self.state = self.read(1)

    def read(self, frames: int) -> FlatState:
        """The state after reading the last frames, and nothing before them."""
        codes = torch.stack(self.codes[-frames:], 1)
        acted = self.actions[len(self.actions) - frames + 1 :]
        actions = torch.stack(acted, 1) if acted else self.blank
        context = self.prior.context(codes, torch.ones(codes.shape[:2], dtype=torch.bool), actions, self.status)
        return self.prior.init_state(context)

    def step(self, actions: Tensor) -> Tensor:
        """Take a step in every row: codes (R, h, w)."""
        window = self.prior.memory
        if self.way == "recompute":
            self.state = self.read(min(window, len(self.codes)))
        elif self.way == "flush" and self.held == window + 1:
            self.held = half(window)
            self.state = self.read(self.held)
        nought = torch.zeros_like(self.seeds)
        draws = uniforms(self.seeds, nought, nought + self.time, self.prior.num_uniforms)
        draws[:, 0] = 1.0  # no hazard reaches it
        out = self.prior.step(self.state, actions, draws, Sampling())
        self.state, self.status = out.state, out.status
        self.codes, self.actions = [*self.codes, out.codes][-window - 1 :], [*self.actions, actions][-window - 1 :]
        self.held, self.time = self.held + 1, self.time + 1
        return out.codes


class Looks:
    """How frames look, by bin of their age.

    Args:
        horizon: steps.
        num_codes: V.
        threshold: a pixel brighter than this is bright.
    """

    def __init__(self, horizon: int, num_codes: int, threshold: int) -> None:
        self.edges = np.linspace(0, horizon, min(BINS, horizon) + 1).round().astype(int)
        self.threshold, count = threshold, len(self.edges) - 1
        self.sums = {name: np.zeros(count) for name in ("frames", "bright", "motion")}
        self.codes = np.zeros((count, num_codes), np.int64)

    def add(self, age: int, before: Tensor, after: Tensor, codes: Tensor) -> None:
        """Frames (n, H, W, 3) uint8 of an age of steps, 1 or more, those before them, and their codes (n, h, w)."""
        place = int(np.searchsorted(self.edges, age, side="left")) - 1
        self.sums["frames"][place] += len(after)
        self.sums["bright"][place] += float(small_bright(after, self.threshold).double().mean((1, 2)).sum())
        self.sums["motion"][place] += float((after.short() - before.short()).abs().double().mean((1, 2, 3)).sum())
        self.codes[place] += np.bincount(codes.flatten().numpy(), minlength=self.codes.shape[1])

    def rates(self) -> dict[str, Any]:
        """By bin; NaN where there are no frames, told as None."""
        frames = np.where(self.sums["frames"] > 0, self.sums["frames"], np.nan)
        share = self.codes / np.maximum(self.codes.sum(1, keepdims=True), 1)
        entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(1)
        found = {
            "bright": self.sums["bright"] / frames,
            "motion": self.sums["motion"] / frames,
            "entropy": np.where(np.isnan(frames), np.nan, entropy),
        }
        told = {name: [None if np.isnan(v) else float(v) for v in values] for name, values in found.items()}
        return {"frames": self.sums["frames"].astype(int).tolist(), **told}


def policy_of(trial: WorldTrial, name: str) -> tuple[str, np.ndarray]:
    """Who plays, and its episodes of the split: the one asked for, or that whose recordings last longest."""
    data, split = trial.data, trial.data.episodes_of(trial.settings.split)
    numbers = {p: np.array([e for e in split if data.policies[e] == p], np.int64) for p in sorted(trial.policies)}
    numbers = {p: found for p, found in numbers.items() if len(found)}
    if not numbers or (name and name not in numbers):
        raise UserError(
            f"policy {name!r}: {data.name} has episodes of {', '.join(numbers) or 'no scripted policy'} in its "
            f"{trial.settings.split} split; name one of them with --policy."
        )
    longest = max(numbers, key=lambda p: float(data.lengths[numbers[p]].mean()))
    return name or longest, numbers[name or longest]


@torch.no_grad()
def free_run(trial: WorldTrial, prior: FlatPrior, policy: str) -> dict[str, Any]:
    """Rates by age of the recordings and of each way's dreams."""
    settings, world, data = trial.settings, trial.world, trial.data
    policy, episodes = policy_of(trial, policy)
    chosen = np.random.default_rng(settings.seed).permutation(episodes)[: settings.rows]

    def looks() -> Looks:
        return Looks(settings.horizon, prior.num_codes, trial.train.bright)

    real = looks()
    for number in chosen:
        count = min(settings.horizon, int(data.lengths[number]))
        first = int(data.frame_offsets[number])
        valid = data.flat("frame_valid")[first : first + count + 1]
        frames = torch.from_numpy(data.frames(int(number), 0, count + 1))
        codes = world.tokenizer.encode(frames[:, None])[:, 0]
        for t in range(1, count + 1):
            if valid[t]:
                real.add(t, frames[t - 1 : t], frames[t : t + 1], codes[t : t + 1])
    starts = np.resize(chosen, settings.rows)
    _, clip = trial.code_clip(starts, np.zeros_like(starts), 2)
    rates = {"real": real.rates()}
    for way in WAYS:
        dreams, seen, begun = Dreams(prior, clip, way, settings.seed), looks(), time.process_time()
        act = trial.policies[policy](settings.seed, settings.rows)
        before = world.tokenizer.decode(clip.codes[:, :1])[:, 0]
        for t in range(1, settings.horizon + 1):
            codes = dreams.step(torch.as_tensor(np.asarray(act(before.numpy()))))
            after = world.tokenizer.decode(codes[:, None])[:, 0]
            seen.add(t, before, after, codes)
            before = after
            trial.progress(f"free run, {way}", t, settings.horizon, {})
        rates[way] = {**seen.rates(), "processor s": time.process_time() - begun}
    return {"policy": policy, "rows": settings.rows, "until step": real.edges[1:].tolist(), **rates}


def picture(found: dict[str, Any]) -> bytes:
    """Nats by frame, and each rate by age: a PNG."""
    said, run = found["likelihood"], found["free run"]
    frames = list(range(1, len(said["ring"]["nats a code"])))
    panels: list[Any] = [("frame", "nats a code", [(way, frames, said[way]["nats a code"][1:]) for way in WAYS])]
    for name, title in MEASURES.items():
        lines = []
        for way in ("real", *WAYS):
            told = [(x, y) for x, y in zip(run["until step"], run[way][name], strict=True) if y is not None]
            lines.append((way, *map(list, zip(*told, strict=True))))
        panels.append(("step", title, lines))
    return report.curves(panels)


def main() -> None:
    """Measure, write the JSON and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path, help="directory of a world whose prior is flat and without end")
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=Path("results/endless.json"))
    parser.add_argument("--split", default="test")
    parser.add_argument("--policy", default="", help="who plays; the one whose recordings last longest if not given")
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument(
        "--ahead", type=int, default=0, help="frames of a clip behind its first W; 3 W + 1 if not given"
    )
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--horizon", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    world = WorldModel.from_pretrained(args.world)
    prior = world.prior
    if not isinstance(prior, FlatPrior) or prior.max_frames is not None:
        raise UserError(f"{args.world}: wanted a flat prior with attention window, positions rotary and scope step.")
    ahead = max(args.ahead, 3 * prior.memory + 1)
    settings = EvaluationSettings(
        args.split, clips=args.clips, ahead=ahead, horizon=args.horizon, rows=args.rows, seed=args.seed
    )
    with Dataset.like(args.data, world.spec.pixels) as data:
        trial = WorldTrial(world, data, policies_of(data), settings, print_progress)
        found = {
            "window": prior.memory,
            "likelihood": likelihood(trial, prior),
            "free run": free_run(trial, prior, args.policy),
            "dataset": data.name,
            "settings": {name: value for name, value in vars(args).items() if name not in ("world", "data", "out")},
            "machine": machine(),
            "code_version": code_version(),
        }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(args.out) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")
    with atomic_path(args.out.with_suffix(".png")) as temporary:
        temporary.write_bytes(picture(found))
    for way in WAYS:
        row = found["likelihood"][way]
        for name in ("cliff", "less recompute"):
            print(f"{way}: {name} {row[name]:+.4f} +- {row[f'{name} standard error']:.4f} nats a code")


def print_progress(stage: str, done: int, of: int, _: dict[str, float]) -> None:
    """A line where a stage is done, and at each fifth of a long one."""
    if done == of or done % max(1, of // 5) == 0:
        print(f"{stage}: {done} of {of}", flush=True)


if __name__ == "__main__":
    main()
