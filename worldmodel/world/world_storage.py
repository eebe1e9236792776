"""The directory that a world is stored in: config.json, two files of weights and a card."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cattrs.errors import BaseValidationError
from cattrs.preconf.json import make_converter
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from worldmodel.common.directories import DirectoryKind, read_directory, write_directory
from worldmodel.common.errors import UserError
from worldmodel.common.run_info import structure_unions_by_kind
from worldmodel.prior import PriorConfig
from worldmodel.tokenizer import Tokenizer, TokenizerConfig
from worldmodel.world.starts import Starts
from worldmodel.world.world_spec import WorldSpec

if TYPE_CHECKING:
    from worldmodel.world.world_model import WorldModel

WORLD = DirectoryKind(
    "world", "worldmodel.world", 1, ("model.safetensors", "starts.safetensors"), "worldmodel train world --out"
)
_converter = structure_unions_by_kind(make_converter(forbid_extra_keys=True))

_CODES_DEPEND_ON = ("time", "space_stride", "time_stride", "clip_length", "num_heads", "num_codebooks")


@dataclass(frozen=True)
class StoredWorld:
    """The content of a world directory.

    Attributes:
        path: the directory.
        spec: the environment that the world was learned from.
        tokenizer: size of the tokenizer.
        prior: size of the prior.
        tokenizer_hash: `tokenizer_hash` of the tokenizer whose codes the prior learned.
        report: figures measured after training, JSON.
        weights: state dict of the world.
        starts: contexts to begin from.
    """

    path: Path
    spec: WorldSpec
    tokenizer: TokenizerConfig
    prior: PriorConfig
    tokenizer_hash: str
    report: dict[str, Any]
    weights: dict[str, Tensor]
    starts: Starts


def is_world(path: Path) -> bool:
    """Whether a directory holds a world's config.json (of any version)."""
    return WORLD.matches(path)


def write_world(world: WorldModel, directory: Path, extras: Path | None = None) -> None:
    """Write a world as a directory, atomically.

    Args:
        world: the world, with its starts.
        directory: made, or replaced if it already holds a world.
        extras: a folder that is copied in under its own name (the training log).

    Raises:
        UserError: the directory holds something that is not a world.
    """
    assert world.starts is not None, "a world is saved with its starts"
    facts = {
        "spec": world.spec.to_json(),
        "tokenizer": asdict(world.tokenizer.config),
        "prior": asdict(world.prior.config),
        "prior_of_tokenizer": tokenizer_hash(world.tokenizer),
        "report": world.report,
    }
    weights = dict(zip(WORLD.files, (world.state_dict(), world.starts.tensors()), strict=True))
    write_directory(directory, WORLD, facts, weights, _card(world), extras)


def read_world(path: Path) -> StoredWorld:
    """Read a world directory; nothing is unpickled.

    Raises:
        UserError: not a world, another version, or damaged.
    """
    config = read_directory(path, WORLD)
    try:
        spec = WorldSpec.from_json(config["spec"])
        tokenizer, prior = read_sizes(config)
        expected_hash = str(config["prior_of_tokenizer"])
    except (KeyError, TypeError, ValueError, BaseValidationError) as error:
        raise UserError(f"{path}/config.json is not whole or not ours ({type(error).__name__}: {error}).") from error
    try:
        weights = load_file(path / WORLD.files[0])
        starts = Starts.from_tensors(load_file(path / WORLD.files[1]))
    except (SafetensorError, KeyError, TypeError) as error:
        raise UserError(f"{path}: its weights or starts cannot be read ({error}).") from error
    report = dict(config.get("report", {}))
    return StoredWorld(path, spec, tokenizer, prior, expected_hash, report, weights, starts)


def read_sizes(config: dict[str, Any]) -> tuple[TokenizerConfig, PriorConfig]:
    """Sizes of tokenizer and prior from a world's config.json.

    Raises:
        KeyError, ValueError, BaseValidationError: a field is missing, unknown or of another type.
    """
    tokenizer = _converter.structure(config["tokenizer"], TokenizerConfig)
    prior: PriorConfig = _converter.structure(config["prior"], PriorConfig)
    return tokenizer, prior


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """sha256 of everything that determines a tokenizer's codes: its weights, and settings that leave no trace there."""
    settings = {name: getattr(tokenizer.config, name) for name in _CODES_DEPEND_ON}
    digest = hashlib.sha256(json.dumps([settings, tokenizer.frame_shape]).encode())
    for name, tensor in sorted(tokenizer.state_dict().items()):
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
