"""Reading and writing the directory of a clip model: config.json, one file of weights and a card."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from worldmodel.common.directories import read_directory, write_directory
from worldmodel.common.errors import UserError
from worldmodel.prior.clip.clip_config import ClipConfig
from worldmodel.tokenizer import TokenizerConfig
from worldmodel.world.clip_directory import CLIP_MODEL, WEIGHTS
from worldmodel.world.config_checksum import KEY, check_checksum, with_checksum
from worldmodel.world.config_values import (
    MAX_CHOICES,
    check_list,
    check_object,
    check_text,
    read_model_config,
    refused,
)
from worldmodel.world.world_spec import WorldSpec
from worldmodel.world.world_storage import check_entries

if TYPE_CHECKING:
    from worldmodel.world.clip_model import ClipModel

ENTRIES = ("format", "version", "spec", "class_names", "tokenizer", "prior", "report", "files", KEY)


@dataclass(frozen=True)
class StoredClipModel:
    """The content of a clip model's directory.

    Attributes:
        spec: the environment that it was learned from.
        class_names: name of each class; empty without classes.
        tokenizer: size of the tokenizer.
        prior: size of the prior.
        report: figures measured after training, JSON.
        weights: state dict.
        has_checksum: whether the config has a checksum, so that it is known to be as it was written.
    """

    spec: WorldSpec
    class_names: tuple[str, ...]
    tokenizer: TokenizerConfig
    prior: ClipConfig
    report: dict[str, Any]
    weights: dict[str, Tensor]
    has_checksum: bool


def write_clip_model(model: ClipModel, directory: Path, extras: Path | None = None) -> None:
    """Write a clip model as a directory, atomically.

    Args:
        model: the model.
        directory: made, or replaced if it already holds a clip model.
        extras: a folder that is copied in under its own name (the training log).

    Raises:
        UserError: the directory holds something that is not a clip model.
    """
    facts = {
        "spec": model.spec.to_json(),
        "class_names": list(model.class_names),
        "tokenizer": model.tokenizer.config.saved_fields(),
        "prior": asdict(model.prior.config),
        "report": model.report,
    }
    weights = {WEIGHTS: model.state_dict()}
    write_directory(directory, CLIP_MODEL, with_checksum(facts), weights, _card(model), extras)


def read_clip_model(path: Path) -> StoredClipModel:
    """Read the directory of a clip model and check every value of its config; nothing is unpickled.

    Raises:
        UserError: not a clip model, another version, damaged, or a config with a wrong or changed value.
    """
    config = read_directory(path, CLIP_MODEL)
    try:
        check_entries(config, ENTRIES)
        spec = WorldSpec.from_json(config["spec"])
        class_names = _read_class_names(config["class_names"])
        tokenizer = read_model_config(config["tokenizer"], TokenizerConfig, "tokenizer")
        prior = read_model_config(config["prior"], ClipConfig, "prior")
        report = check_object(config["report"], "report")
    except UserError as error:
        raise UserError(f"{path}/config.json: {error}") from error
    has_checksum = check_checksum(config, path)
    try:
        weights = load_file(path / WEIGHTS)
    except SafetensorError as error:
        raise UserError(f"{path}/{WEIGHTS} cannot be read ({error}).") from error
    return StoredClipModel(spec, class_names, tokenizer, prior, report, weights, has_checksum)


def _read_class_names(value: Any) -> tuple[str, ...]:
    names = tuple(check_text(name, "class_names") for name in check_list(value, "class_names"))
    if len(names) > MAX_CHOICES:
        raise refused("class_names", value, f"at most {MAX_CHOICES} names")
    return names


def _card(model: ClipModel) -> str:
    """README.md of the directory."""
    height, width, _ = model.spec.pixels.frame_shape
    h, w = model.tokenizer.grid
    figures = "".join(f"| {name} | {value} |\n" for name, value in model.report.items())
    return (
        "---\nlibrary_name: worldmodel\ntags: [video-generation]\n---\n\n"
        f"# Clips of {model.spec.env}\n\n"
        f"Clips of {model.prior.config.num_frames} frames of {height} x {width} pixels as {model.prior.num_steps} x "
        f"{h} x {w} codes, {_conditions(model)}. The model samples whole clips and cannot be stepped.\n\n"
        '```python\nimport worldmodel\nmodel = worldmodel.ClipModel.from_pretrained("DIR")\n```\n\n'
        f"| measured on the validation split | |\n|---|---|\n{figures}"
    )


def _conditions(model: ClipModel) -> str:
    """What the model is conditioned on, for the card."""
    config, parts = model.prior.config, []
    if config.class_label:
        parts.append(f"a class of {len(model.class_names)}")
    if config.actions != "none":
        parts.append({"step": "the action of each frame", "clip": "the actions of the whole clip"}[config.actions])
    if config.num_given_frames:
        parts.append(f"the first {config.num_given_frames} frame(s)")
    return f"conditioned on {' and '.join(parts)}" if parts else "without conditions"
