"""What all trainers share: the dataset, the identity of a training, its budget, initial weights, report entries."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from worldmodel.common.directories import load_matching_weights
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import Crop
from worldmodel.data import Dataset
from worldmodel.train.training_config import PriorTraining, TokenizerTraining
from worldmodel.world.hub import with_shipped_names
from worldmodel.world.tokenizer_storage import TokenizerCheckpoint

Data = Dataset | str | Path | Sequence[str | Path]
Config = TypeVar("Config", bound=TokenizerTraining | PriorTraining)


def open_dataset(data: Data, crop: Crop | None) -> Dataset:
    """The dataset, cropped; an open dataset is cropped too, unless it is already."""
    if not isinstance(data, Dataset):
        return Dataset(data, crop=crop)
    return data if crop is None or data.crop is not None else Dataset(data.paths, data.cache, crop)


def training_identity(config: Any, data: Dataset, init_from: str | Path | None) -> dict[str, Any]:
    """Everything that determines the result of a training, as JSON."""
    fields = asdict(config)
    if "tokenizer" in fields:
        fields["tokenizer"] = config.tokenizer.saved_fields()
    identity = json.loads(json.dumps({"config": fields, "dataset": data.fingerprint}))
    for name in ("mirror", "shuffled_actions"):  # fields that earlier versions did not have
        if not identity["config"].get(name, True):
            del identity["config"][name]
    if init_from is not None:
        config_path = with_shipped_names(init_from) / "config.json"  # holds the sha256 of the weights
        if not config_path.is_file():
            raise UserError(f"init_from={init_from}: wanted the directory of a world or of a tokenizer.")
        identity["init_from"] = hashlib.sha256(config_path.read_bytes()).hexdigest()
    return identity


def check_causal_clips(config: TokenizerTraining) -> None:
    """Check that the training clips of a causal tokenizer are as long as the past that a code depends on in an episode.

    Tokenizers with a stride in time are not checked: a clip model never encodes more than a clip.

    Raises:
        UserError: they are shorter.
    """
    tokenizer, length = config.tokenizer, config.train_tokenizer.clip_length
    needed = tokenizer.causal_past[0] + 1
    if tokenizer.time == "causal" and tokenizer.time_stride == 1 and length < needed:
        raise UserError(
            f"train-tokenizer.clip-length={length}: a code of this causal tokenizer depends on up to {needed} frames, "
            f"wanted clips of at least as many. Give --train-tokenizer.clip-length {needed} or more, or fewer "
            "tokenizer.num-layers, or a smaller tokenizer.time-window."
        )


def overfit_note(config: TokenizerTraining | PriorTraining) -> dict[str, str]:
    """An entry of the report about training on one batch only, if so."""
    return {"trained on": "one batch, again and again"} if config.overfit_one_batch else {}


def skipped_episodes(data: Dataset, clip_length: int) -> dict[str, str]:
    """An entry of the report about training episodes that are shorter than a clip, if there are any."""
    lengths = data.lengths[data.episodes_of("train")] + 1  # frames
    short = int((lengths < clip_length).sum())
    return {"not learned": f"{short} of {len(lengths)} episodes, shorter than a clip of {clip_length}"} if short else {}


def copy_weights(source: nn.Module, target: nn.Module, directory: str | Path) -> None:
    """Copy all weights and buffers."""
    remedy = "Give the sizes in its config.json, or leave it out."
    load_matching_weights(target, source.state_dict(), f"the weights of {directory}", remedy)


def with_budget(config: Config, minutes: float | None) -> Config:
    """Divide a budget between the loops in proportion to their own minutes; it replaces a number of steps."""
    if minutes is None:
        return config
    if minutes <= 0:
        raise UserError(f"minutes={minutes}: wanted a positive number.")
    names = [name for name in ("train_tokenizer", "train_prior") if hasattr(config, name)]
    loops = {name: getattr(config, name) for name in names}
    total = sum(loop.minutes for loop in loops.values())
    budgets: dict[str, Any] = {
        name: replace(loop, minutes=minutes * loop.minutes / total, num_steps=0) for name, loop in loops.items()
    }
    return replace(config, **budgets)


def check_pixels(source: TokenizerCheckpoint, directory: str | Path, data: Dataset) -> None:
    """Refuse a dataset whose frames were made with another preprocessing than those of the tokenizer."""
    if source.pixels != data.header.pixels:
        raise UserError(
            f"the tokenizer of {directory} was trained on frames of {source.pixels.to_json()}, {data.name} holds "
            f"frames of {data.header.pixels.to_json()}; record like frames, or train a tokenizer on these."
        )
