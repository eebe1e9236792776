"""From a dataset to a world directory: tokenizer, then codes once, then prior.

Shapes: B clips, L frames a clip, S starts, W frames of memory, h w code grid.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel.data import ClipSampler, Dataset
from worldmodel.errors import UserError
from worldmodel.model import WorldModel, WorldSpec, is_world, tokenizer_hash
from worldmodel.prior.interface import Context
from worldmodel.prior.starts import KIND_EPISODE, KIND_INSIDE, Starts
from worldmodel.train.cache import CodeCache, encode_dataset
from worldmodel.train.config import WorldConfig
from worldmodel.train.evaluate import evaluate_world
from worldmodel.train.loop import LOGS, Loop, Progress
from worldmodel.train.runtime import Runtime, choose_runtime

MEASURED_FRAMES = 2000  # of the training split, for the tokenizer's normaliser


def train_world(
    data: Dataset | str | Path | Sequence[str | Path],
    out: str | Path,
    config: WorldConfig,
    *,
    minutes: float | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    force: bool = False,
) -> WorldModel:
    """Train a world; the same call continues a stopped one and returns a finished one.

    While training, everything lives in the folder `<out>.training`; at the end `out` appears whole, with
    the log inside as `training/`.

    Args:
        data: a dataset or its files.
        out: the world directory to make.
        config: sizes and loops, e.g. from `worldmodel.presets.PRESETS`.
        minutes: budget of both loops together, shared as their own budgets are; None takes those.
        device: "auto", "cpu" or "cuda".
        progress: called as (stage, steps done, steps in all or 0, figures).
        force: replace another world or another run's remains at `out`.

    Returns:
        The world, in evaluation mode, as it was saved.

    Raises:
        UserError: `out` is another run's, or the data cannot feed this config.
    """
    runtime = choose_runtime(device)
    data = data if isinstance(data, Dataset) else Dataset(data)
    config = _with_budget(config, minutes)
    out = Path(out)
    folder = out.with_name(f"{out.name}.training")
    run = json.loads(json.dumps({"config": asdict(config), "dataset": data.fingerprint}))
    if _finished(out, folder, run, force):
        return WorldModel.from_pretrained(out, runtime.device)
    (folder / LOGS).mkdir(parents=True, exist_ok=True)
    (folder / LOGS / "run.json").write_text(json.dumps(run, indent=1))

    torch.manual_seed(config.seed)
    world = WorldModel(config.tokenizer, config.prior, describe(data)).to(runtime.device)
    train_tokenizer(world, data, config, folder, runtime, progress)
    name = tokenizer_hash(world.tokenizer)[:16]
    codes = encode_dataset(data, world.tokenizer, folder / f"codes-{name}.npy")
    cache = CodeCache(data, codes, config.tokenizer.num_codes, config.prior.status)
    train_prior(world, cache, config, folder, runtime, progress)
    world.starts = gather_starts(world, cache, config.num_starts, config.seed)
    world.report = evaluate_world(world, data, cache, config.seed)

    if out.exists() and force and not is_world(out):
        shutil.rmtree(out)
    world.save_pretrained(out, extras=folder / LOGS)
    shutil.rmtree(folder)
    return WorldModel.from_pretrained(out, runtime.device)


def train_tokenizer(
    world: WorldModel,
    data: Dataset,
    config: WorldConfig,
    folder: Path,
    runtime: Runtime,
    progress: Progress | None,
) -> None:
    """Frames -> codes -> frames (paper section 2.1)."""
    settings, tokenizer = config.train_tokenizer, world.tokenizer
    sampler = ClipSampler(data, settings.clip_length, settings.batch_size, "train", config.seed)
    loop = Loop("tokenizer", folder, tokenizer, settings, config.seed, runtime, progress)
    if not loop.checkpoint.exists():
        tokenizer.measure(_some_frames(data))
    for step in loop.steps():
        batch = sampler.batch(step).torch(runtime.device)
        with runtime.autocast():
            losses = tokenizer.loss(batch.frames, batch.frame_valid)
        loop.descend(losses)


def train_prior(
    world: WorldModel,
    cache: CodeCache,
    config: WorldConfig,
    folder: Path,
    runtime: Runtime,
    progress: Progress | None,
) -> None:
    """Codes and actions -> the next codes, ends, rewards (paper section 2.2)."""
    settings, prior, data = config.train_prior, world.prior, cache.data
    sampler = ClipSampler(data, settings.clip_length, settings.batch_size, "train", config.seed)
    loop = Loop("prior", folder, prior, settings, config.seed, runtime, progress)
    if not loop.checkpoint.exists():
        torch.manual_seed(config.seed)
        episodes = data.episodes_of("train")
        prior.init_from_codes(world.tokenizer.codebook.embeddings, cache.counts(episodes).to(runtime.device))
        spans = [slice(int(data.step_offsets[e]), int(data.step_offsets[e] + data.lengths[e])) for e in episodes]
        rewards = np.concatenate([data.flat("rewards")[span] for span in spans])
        prior.measure_rewards(torch.from_numpy(rewards).to(runtime.device))
    for step in loop.steps():
        clip = cache.clip(*sampler.locate(step), settings.clip_length).to(runtime.device)
        with runtime.autocast():
            losses = prior.loss(clip)
        loop.descend(losses)


def describe(data: Dataset) -> WorldSpec:
    """What a world keeps of its dataset."""
    header = data.header
    last = data.frame_offsets + data.lengths
    ended = data.flat("terminations")[data.step_offsets + data.lengths - 1]
    pictures = data.flat("frame_valid")[last][ended]
    return WorldSpec(
        env=header.env,
        pixels=header.pixels,
        action_space=header.action_space,
        action_labels=header.action_labels,
        env_kwargs=header.env_kwargs,
        frame_skip=header.frame_skip,
        max_steps=header.max_steps,
        end_has_frame=bool(pictures.mean() > 0.5) if len(pictures) else True,
        dataset=data.fingerprint,
    )


def gather_starts(world: WorldModel, cache: CodeCache, at_least: int, seed: int) -> Starts:
    """Every true episode start of the training split, topped up with moments inside episodes."""
    data, prior = cache.data, world.prior
    window, bins = prior.window, prior.status_config.num_bins
    episodes = data.episodes_of("train")
    long = episodes[data.lengths[episodes] >= window]
    missing = max(0, at_least - len(episodes)) if len(long) else 0
    rng = np.random.default_rng(seed)
    inside = rng.choice(long, missing) if missing else np.empty(0, np.int64)
    moments = rng.integers(0, data.lengths[inside] - window + 1)  # first frame of a window before the end

    def states(numbers: np.ndarray, first: np.ndarray, length: int) -> Context:
        frames = (data.frame_offsets[numbers] + first)[:, None] + np.arange(length)  # (n, length)
        steps = (data.step_offsets[numbers] + first)[:, None] + np.arange(length - 1)
        status = cache.status[frames[:, -1]] if bins else np.zeros(len(numbers), np.int64)
        return prior.context(
            torch.from_numpy(cache.codes[frames].astype(np.int64)),
            torch.from_numpy(data.flat("frame_valid")[frames]),
            torch.from_numpy(data.flat("actions")[steps]),
            torch.from_numpy(status.astype(np.int64)),
        )

    parts = [states(episodes, np.zeros_like(episodes), 1)]
    if missing:
        parts.append(states(inside, moments, window))
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])}
    kinds = torch.tensor([KIND_EPISODE] * len(episodes) + [KIND_INSIDE] * missing)
    return Starts(Context(**joined), kinds)


def _some_frames(data: Dataset) -> list[torch.Tensor]:
    """Valid frames spread evenly over the training split, one chunk an episode."""
    episodes = data.episodes_of("train")
    stride = max(1, int((data.lengths[episodes] + 1).sum()) // MEASURED_FRAMES)
    chunks = []
    for number in episodes:
        begin = int(data.frame_offsets[number])
        valid = data.flat("frame_valid")[begin : begin + int(data.lengths[number]) + 1]
        chunks.append(torch.from_numpy(data.frames(int(number))[valid][number % stride :: stride]))
    return [chunk for chunk in chunks if len(chunk)]


def _with_budget(config: WorldConfig, minutes: float | None) -> WorldConfig:
    """Share a budget between the loops as their own minutes are; a fixed number of steps gives way to it."""
    if minutes is None:
        return config
    if minutes <= 0:
        raise UserError(f"minutes={minutes}: wanted a positive number.")
    loops = {"train_tokenizer": config.train_tokenizer, "train_prior": config.train_prior}
    total = sum(loop.minutes for loop in loops.values())
    shared: dict[str, Any] = {
        name: replace(loop, minutes=minutes * loop.minutes / total, num_steps=0) for name, loop in loops.items()
    }
    return replace(config, **shared)


def _finished(out: Path, folder: Path, run: dict[str, Any], force: bool) -> bool:
    """Whether `out` is this run's finished world; refuses another run's, or with `force` clears it."""

    def same(path: Path) -> bool:
        try:
            return json.loads((path / "run.json").read_text()) == run
        except (OSError, ValueError):
            return False

    if is_world(out) and same(out / LOGS):
        shutil.rmtree(folder, ignore_errors=True)
        return True
    taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if taken and not force:
        raise UserError(f"{out} exists and is not this run's world; give another --out, or --force.")
    if folder.exists() and not same(folder / LOGS):
        if (folder / LOGS / "run.json").exists() and not force:
            raise UserError(
                f"{folder} holds another training (other data or settings); give another --out, repeat its "
                "command to continue it, or --force to drop it."
            )
        shutil.rmtree(folder)
    return False
