"""The directory that a world is stored in: config.json, two files of weights and a card."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from worldmodel.common.directories import DirectoryKind, read_directory, write_directory
from worldmodel.common.errors import UserError
from worldmodel.prior.prior_registry import PriorConfig, prior_configs
from worldmodel.tokenizer import Tokenizer, TokenizerConfig
from worldmodel.world.clip_directory import refuse_clip_model
from worldmodel.world.config_checksum import KEY, check_checksum, with_checksum
from worldmodel.world.config_values import check_object, check_text, check_world_tokenizer, read_model_config
from worldmodel.world.legacy_keys import rename_world_weights
from worldmodel.world.starts import Starts
from worldmodel.world.world_spec import WorldSpec

if TYPE_CHECKING:
    from worldmodel.world.world_model import WorldModel

WORLD = DirectoryKind(
    "world",
    "worldmodel.world",
    2,
    ("model.safetensors", "starts.safetensors"),
    "worldmodel train world --out",
    older_versions=(1,),
)
ENTRIES = ("format", "version", "spec", "tokenizer", "prior", "prior_of_tokenizer", "report", "files", KEY)

_CODES_DEPEND_ON = ("time", "space_stride", "time_stride", "clip_length", "num_heads", "num_codebooks")


@dataclass(frozen=True)
class StoredWorld:
    """The content of a world directory.

    Attributes:
        path: the directory.
        version: version of its format.
        spec: the environment that the world was learned from.
        tokenizer: size of the tokenizer.
        prior: size of the prior.
        tokenizer_hash: `tokenizer_hash` of the tokenizer whose codes the prior learned.
        report: figures measured after training, JSON.
        weights: state dict of the world.
        tokenizer_weights: the tokenizer's part of it under the names of the file, which `tokenizer_hash` depends on.
        starts: contexts to begin from.
        has_checksum: whether the config has a checksum, so that it is known to be as it was written.
    """

    path: Path
    version: int
    spec: WorldSpec
    tokenizer: TokenizerConfig
    prior: PriorConfig
    tokenizer_hash: str
    report: dict[str, Any]
    weights: dict[str, Tensor]
    tokenizer_weights: dict[str, Tensor]
    starts: Starts
    has_checksum: bool


def is_world(path: Path) -> bool:
    """Whether a directory holds a world's config.json (of any version)."""
    return WORLD.is_stored_at(path)


def write_world(world: WorldModel, directory: Path, extras: Path | None = None, half: bool = False) -> None:
    """Write a world as a directory, atomically.

    Args:
        world: the world, with its starts.
        directory: made, or replaced if it already holds a world.
        extras: a folder that is copied in under its own name (the training log).
        half: store the matrices of the prior in bfloat16.

    Raises:
        UserError: the directory holds something that is not a world.
    """
    assert world.starts is not None, "a world is saved with its starts"
    facts = {
        "spec": world.spec.to_json(),
        "tokenizer": world.tokenizer.config.saved_fields(),
        "prior": asdict(world.prior.config),
        "prior_of_tokenizer": tokenizer_hash(world.tokenizer),
        "report": world.report,
    }
    tensors = _half_prior(world.state_dict()) if half else world.state_dict()
    weights = dict(zip(WORLD.files, (tensors, world.starts.tensors()), strict=True))
    write_directory(directory, WORLD, with_checksum(facts), weights, _card(world), extras)


def _half_prior(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the prior's matrices in bfloat16; the tokenizer's codes must not change."""
    halved = dict(tensors)
    for name, tensor in tensors.items():
        if name.startswith("prior.") and tensor.dtype == torch.float32 and tensor.ndim > 1:
            halved[name] = tensor.to(torch.bfloat16)
    return halved


def read_world(path: Path) -> StoredWorld:
    """Read a world directory and check every value of its config; nothing is unpickled.

    Raises:
        UserError: not a world, another version, damaged, or a config with a wrong or changed value.
    """
    refuse_clip_model(path)
    config = read_directory(path, WORLD)
    try:
        check_entries(config, ENTRIES)
        spec = WorldSpec.from_json(config["spec"])
        tokenizer, prior = read_sizes(config)
        expected_hash = check_text(config["prior_of_tokenizer"], "prior_of_tokenizer")
        report = check_object(config["report"], "report")
    except UserError as error:
        raise UserError(f"{path}/config.json: {error}") from error
    has_checksum = check_checksum(config, path)
    try:
        weights = load_file(path / WORLD.files[0])
        starts = Starts.from_tensors(load_file(path / WORLD.files[1]))
    except (SafetensorError, KeyError, TypeError) as error:
        raise UserError(f"{path}: its weights or starts cannot be read ({error}).") from error
    version = int(config["version"])
    tokenizer_weights = {
        name.removeprefix("tokenizer."): tensor for name, tensor in weights.items() if name.startswith("tokenizer.")
    }
    return StoredWorld(
        path=path,
        version=version,
        spec=spec,
        tokenizer=tokenizer,
        prior=prior,
        tokenizer_hash=expected_hash,
        report=report,
        weights=rename_world_weights(weights) if version == 1 else weights,
        tokenizer_weights=tokenizer_weights,
        starts=starts,
        has_checksum=has_checksum,
    )


def check_entries(config: dict[str, Any], entries: tuple[str, ...]) -> None:
    """Refuse a config.json with unknown or missing entries; the checksum may be missing."""
    check_object(config, "it", entries)
    missing = [name for name in entries if name not in config and name != KEY]
    if missing:
        raise UserError(f"it lacks the entry {missing[0]!r}.")


def read_sizes(config: dict[str, Any]) -> tuple[TokenizerConfig, PriorConfig]:
    """Sizes of tokenizer and prior from a world's config.json.

    Raises:
        UserError: a field is unknown, of the wrong type or out of range.
    """
    tokenizer = read_model_config(config["tokenizer"], TokenizerConfig, "tokenizer")
    prior = read_model_config(config["prior"], prior_configs(), "prior")
    check_world_tokenizer(tokenizer, prior.window)
    return tokenizer, prior


def tokenizer_hash(tokenizer: Tokenizer, weights: dict[str, Tensor] | None = None) -> str:
    """sha256 of everything that determines a tokenizer's codes: its weights, and settings that leave no trace there.

    Args:
        tokenizer: the tokenizer.
        weights: its state dict under other names, as a directory of format version 1 has it; its own if not given.
    """
    settings = {name: getattr(tokenizer.config, name) for name in _CODES_DEPEND_ON}
    digest = hashlib.sha256(json.dumps([settings, tokenizer.encoded_shape]).encode())
    for name, tensor in sorted((weights or tokenizer.state_dict()).items()):
        if name.startswith("border."):  # draws from codes, and has no influence on them
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _card(world: WorldModel) -> str:
    """README.md of the directory."""
    spec, (h, w) = world.spec, world.tokenizer.grid
    height, width, _ = spec.pixels.frame_shape
    figures = "".join(f"| {name} | {value} |\n" for name, value in world.report.items())
    return (
        "---\nlibrary_name: worldmodel\ntags: [world-model]\n---\n\n"
        f"# A learned {spec.env}\n\n"
        f"Frames of {height} x {width} pixels as {h} x {w} codes, actions {spec.action_space}. One step "
        f"is {spec.frame_skip} of the environment's.\n\n"
        "```python\nimport gymnasium, worldmodel\n"
        'env = gymnasium.make("worldmodel/Dream-v0", world="DIR")\n```\n\n'
        f"| measured on the validation split | |\n|---|---|\n{figures}"
    )
