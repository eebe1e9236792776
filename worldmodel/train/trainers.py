"""From a dataset to a tokenizer directory, from that to a world directory, and both at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from worldmodel.common.directories import load_matching_weights
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import Crop
from worldmodel.common.runtime import Runtime, choose_runtime
from worldmodel.data import Dataset
from worldmodel.tokenizer import make_tokenizer
from worldmodel.train.calibration import calibrate_ends
from worldmodel.train.code_cache import CodeCache, encode_dataset
from worldmodel.train.loop import Progress
from worldmodel.train.quick_evaluation import evaluate_world
from worldmodel.train.training_config import PriorTraining, TokenizerTraining, WorldConfig, half
from worldmodel.train.training_loops import check_feeds, learn_prior, learn_tokenizer
from worldmodel.train.validation import DrawDreams, check_tokenizer, split_for
from worldmodel.train.workspace import begin, finish
from worldmodel.train.world_facts import describe, gather_starts
from worldmodel.world.tokenizer_storage import TOKENIZER, TokenizerCheckpoint
from worldmodel.world.world_model import WorldModel
from worldmodel.world.world_storage import is_world, tokenizer_hash

Data = Dataset | str | Path | Sequence[str | Path]
Config = TypeVar("Config", WorldConfig, TokenizerTraining, PriorTraining)


def train_world(
    data: Data,
    out: str | Path,
    config: WorldConfig,
    *,
    minutes: float | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    force: bool = False,
    init_from: str | Path | None = None,
    draw_dreams: DrawDreams | None = None,
) -> WorldModel:
    """Train a world; the same call continues a stopped one and returns a finished one.

    While training, everything lives in the folder `<out>.training`; at the end `out` appears whole, with
    the log inside as `training/`.

    Args:
        data: a dataset or its files.
        out: the world directory to make.
        config: sizes and loops, e.g. from `worldmodel.train.presets.PRESETS`.
        minutes: budget of both loops together, shared as their own budgets are; None takes those.
        device: "auto", "cpu" or "cuda".
        progress: called as (stage, steps done, steps in all or 0, figures).
        force: replace another world or another run's remains at `out`.
        init_from: a world, or a tokenizer, whose weights to begin with; its sizes must be the config's.
        draw_dreams: draws validation clips, as `dream.dream_clips.draw_clips`; None logs no pictures of dreams.

    Returns:
        The world, in evaluation mode, as it was saved.

    Raises:
        UserError: `out` is another run's, or the data cannot feed this config.
    """
    runtime = choose_runtime(device)
    data = _opened(data, config.crop)
    config = _with_budget(config, minutes)
    _refuse_clips(config.tokenizer.time)
    check_feeds(data, config)
    out, run = Path(out), _identity(config, data, init_from)
    torch.manual_seed(config.seed)
    world = WorldModel(config.tokenizer, config.prior, describe(data)).to(runtime.device)
    if init_from is not None:
        saved = TokenizerCheckpoint.from_pretrained(init_from, runtime.device)
        _copy(saved.tokenizer, world.tokenizer, init_from)
        if is_world(Path(init_from)):
            _copy(WorldModel.from_pretrained(init_from, runtime.device).prior, world.prior, init_from)
    folder = begin(out, "world", is_world, run, force, runtime)
    if folder is not None:
        measured = init_from is not None
        learn_tokenizer(world.tokenizer, data, half(config, TokenizerTraining), folder, runtime, progress, measured)
        measured = measured and is_world(Path(str(init_from)))
        _second_half(
            world, data, half(config, PriorTraining), out, folder, runtime, progress, measured, force, draw_dreams
        )
    return WorldModel.from_pretrained(out, runtime.device)


def train_tokenizer(
    data: Data,
    out: str | Path,
    config: TokenizerTraining,
    *,
    minutes: float | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    force: bool = False,
    init_from: str | Path | None = None,
) -> TokenizerCheckpoint:
    """Train a tokenizer alone, the first half of `train_world`, with the same numbers.

    Args:
        data: a dataset or its files.
        out: the tokenizer directory to make.
        config: size and loop; of a whole world's config its tokenizer's part counts.
        minutes: budget; None takes the config's.
        device: "auto", "cpu" or "cuda".
        progress: called as (stage, steps done, steps in all or 0, figures).
        force: replace another tokenizer or another run's remains at `out`.
        init_from: a tokenizer or world whose weights to begin with; its sizes must be the config's.

    Returns:
        The tokenizer, in evaluation mode, as it was saved.

    Raises:
        UserError: `out` is another run's, or the data cannot feed this config.
    """
    runtime = choose_runtime(device)
    data = _opened(data, config.crop)
    config = _with_budget(half(config, TokenizerTraining), minutes)
    check_feeds(data, config)
    out, run = Path(out), _identity(config, data, init_from)
    torch.manual_seed(config.seed)
    header, length = data.header, config.train_tokenizer.clip_length
    tokenizer = make_tokenizer(config.tokenizer, header.pixels.frame_shape).to(runtime.device)
    if init_from is not None:
        saved = TokenizerCheckpoint.from_pretrained(init_from, runtime.device)
        _copy(saved.tokenizer, tokenizer, init_from)
    folder = begin(out, "tokenizer", TOKENIZER.matches, run, force, runtime)
    if folder is not None:
        learn_tokenizer(tokenizer, data, config, folder, runtime, progress, init_from is not None)
        figures, _ = check_tokenizer(tokenizer, data, length, config.seed, runtime)()
        report = {"split": split_for(data, length), **{name: round(x, 4) for name, x in figures.items()}}
        report |= _left_out(data, length) | _overfit(config)
        made = TokenizerCheckpoint(tokenizer, header.env, header.pixels, data.fingerprint, report)
        with runtime.main_first() as main:
            if main:
                finish(out, folder, TOKENIZER.matches, made.save_pretrained, force)
    return TokenizerCheckpoint.from_pretrained(out, runtime.device)


def train_prior(
    tokenizer: str | Path,
    data: Data,
    out: str | Path,
    config: PriorTraining,
    *,
    minutes: float | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    force: bool = False,
    init_from: str | Path | None = None,
    draw_dreams: DrawDreams | None = None,
) -> WorldModel:
    """Train a prior on a tokenizer's codes, the second half of `train_world`, with the same numbers.

    Args:
        tokenizer: a tokenizer directory, or a world's, whose tokenizer is taken.
        data: a dataset or its files.
        out: the world directory to make.
        config: size and loop; of a whole world's config its prior's part counts.
        minutes: budget; None takes the config's.
        device: "auto", "cpu" or "cuda".
        progress: called as (stage, steps done, steps in all or 0, figures).
        force: replace another world or another run's remains at `out`.
        init_from: a world whose prior's weights to begin with; its sizes must be the config's.
        draw_dreams: draws validation clips, as `dream.dream_clips.draw_clips`; None logs no pictures of dreams.

    Returns:
        The world, in evaluation mode, as it was saved.

    Raises:
        UserError: `out` is another run's, the tokenizer is of other frames, or the data cannot feed this config.
    """
    runtime = choose_runtime(device)
    config = _with_budget(half(config, PriorTraining), minutes)
    saved = TokenizerCheckpoint.from_pretrained(tokenizer, runtime.device)
    data = data if isinstance(data, Dataset) else Dataset.like(data, saved.pixels)
    _refuse_clips(saved.tokenizer.config.time)
    if saved.pixels != data.header.pixels:
        raise UserError(
            f"the tokenizer of {tokenizer} was learned from frames of {saved.pixels.to_json()}, {data.name} holds "
            f"frames of {data.header.pixels.to_json()}; record like frames, or train a tokenizer on these."
        )
    check_feeds(data, config)
    out, run = Path(out), _identity(config, data, init_from)
    run["tokenizer"] = tokenizer_hash(saved.tokenizer)
    torch.manual_seed(config.seed)
    world = WorldModel(saved.tokenizer.config, config.prior, describe(data)).to(runtime.device)
    _copy(saved.tokenizer, world.tokenizer, tokenizer)
    if init_from is not None:
        other = WorldModel.from_pretrained(init_from, runtime.device)
        if tokenizer_hash(other.tokenizer) != run["tokenizer"]:
            raise UserError(
                f"init_from={init_from}: its prior knows the codes of another tokenizer than {tokenizer}; begin "
                "without it, or give its own tokenizer."
            )
        _copy(other.prior, world.prior, init_from)
    folder = begin(out, "world", is_world, run, force, runtime)
    if folder is not None:
        _second_half(
            world.eval(), data, config, out, folder, runtime, progress, init_from is not None, force, draw_dreams
        )
    return WorldModel.from_pretrained(out, runtime.device)


def _second_half(
    world: WorldModel,
    data: Dataset,
    config: PriorTraining,
    out: Path,
    folder: Path,
    runtime: Runtime,
    progress: Progress | None,
    measured: bool,
    force: bool,
    draw_dreams: DrawDreams | None,
) -> None:
    """Codes once, then the prior, then the directory."""
    name = tokenizer_hash(world.tokenizer)[:16]
    with runtime.main_first():
        codes = encode_dataset(data, world.tokenizer, folder / f"codes-{name}.npy")
    cache = CodeCache(data, codes, world.tokenizer.config.num_codes, config.prior.status)
    world.starts = gather_starts(world, cache, config.num_starts, config.seed).to(runtime.device)
    learn_prior(world, cache, config, folder, runtime, progress, measured, draw_dreams)
    with runtime.main_first() as main:
        if main:
            calibrate_ends(world, cache)
            figures = evaluate_world(world, data, cache, config.seed)
            world.report = {**figures, **_left_out(data, config.train_prior.clip_length), **_overfit(config)}
            finish(out, folder, is_world, world.save_pretrained, force)


def _opened(data: Data, crop: Crop | None) -> Dataset:
    """The dataset, cropped; one that was opened already is cropped too, unless it is."""
    if not isinstance(data, Dataset):
        return Dataset(data, crop=crop)
    return data if crop is None or data.crop is not None else Dataset(data.paths, data.cache, crop)


def _identity(config: Any, data: Dataset, init_from: str | Path | None) -> dict[str, Any]:
    """Everything that decides a run's result, as JSON."""
    run = json.loads(json.dumps({"config": asdict(config), "dataset": data.fingerprint}))
    if init_from is not None:
        config_path = Path(init_from) / "config.json"  # notes the sha256 of the weights
        if not config_path.is_file():
            raise UserError(f"init_from={init_from}: wanted the directory of a world or of a tokenizer.")
        run["init_from"] = hashlib.sha256(config_path.read_bytes()).hexdigest()
    return run


def _overfit(config: TokenizerTraining | PriorTraining) -> dict[str, str]:
    return {"trained on": "one batch, again and again"} if config.overfit_one_batch else {}


def _left_out(data: Dataset, clip_length: int) -> dict[str, str]:
    """How many training episodes no clip was cut from, if there were any."""
    lengths = data.lengths[data.episodes_of("train")] + 1  # frames
    short = int((lengths < clip_length).sum())
    return {"not learned": f"{short} of {len(lengths)} episodes, shorter than a clip of {clip_length}"} if short else {}


def _refuse_clips(time: str) -> None:
    if time != "frame":
        raise UserError(
            f"a world is stepped frame by frame, so its tokenizer must have time='frame', not {time!r}; that kind is "
            "trained alone, with `worldmodel train tokenizer`."
        )


def _copy(source: nn.Module, target: nn.Module, directory: str | Path) -> None:
    """Take over all weights and buffers."""
    remedy = "Give the sizes that stand in its config.json, or begin without it."
    load_matching_weights(target, source.state_dict(), f"the weights of {directory}", remedy)


def _with_budget(config: Config, minutes: float | None) -> Config:
    """Share a budget between the loops as their own minutes are; a fixed number of steps gives way to it."""
    if minutes is None:
        return config
    if minutes <= 0:
        raise UserError(f"minutes={minutes}: wanted a positive number.")
    names = [name for name in ("train_tokenizer", "train_prior") if hasattr(config, name)]
    loops = {name: getattr(config, name) for name in names}
    total = sum(loop.minutes for loop in loops.values())
    shared: dict[str, Any] = {
        name: replace(loop, minutes=minutes * loop.minutes / total, num_steps=0) for name, loop in loops.items()
    }
    return replace(config, **shared)
