"""A directory of ours: config.json, weights whose sha256 it notes, a card; whole or not there at all, no pickle.

Reading one loads no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldmodel.common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class DirectoryKind:
    """What a directory holds.

    Attributes:
        noun: what users call it, e.g. "world".
        format: the word in config.json that tells it from other directories.
        version: of what this code writes and reads.
        files: its files of weights.
        maker: the command that makes it.
        older_versions: which this code reads too.
    """

    noun: str
    format: str
    version: int
    files: tuple[str, ...]
    maker: str
    older_versions: tuple[int, ...] = ()

    def matches(self, path: Path) -> bool:
        """Whether a directory's config.json says that it is of this kind, whatever its version."""
        try:
            return json.loads((path / "config.json").read_text()).get("format") == self.format
        except (OSError, ValueError, AttributeError):
            return False


def check_target(out: Path, kind: DirectoryKind) -> None:
    """Refuse to write where something else stands.

    Raises:
        UserError: neither nothing, nor an empty folder, nor one of this kind.
    """
    if out.exists() and not kind.matches(out) and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists and is not a {kind.noun} directory; give another one or remove it.")


def write_directory(
    out: Path,
    kind: DirectoryKind,
    facts: dict[str, Any],
    weights: Mapping[str, dict[str, Tensor] | bytes],
    card: str,
    extras: Path | None,
) -> None:
    """Write a directory beside its place, then move it there.

    Args:
        out: made, or replaced if it holds one of this kind already.
        kind: what it is.
        facts: JSON for config.json, beside format, version and the files' sha256.
        weights: file name -> tensors, or the file's bytes.
        card: README.md.
        extras: a folder copied in under its own name (the training's log).

    Raises:
        UserError: something else stands at `out`.
    """
    from safetensors.torch import save_file

    check_target(out, kind)
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.new-{os.getpid()}")
    old = out.with_name(f".{out.name}.old-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    try:
        for name, content in weights.items():
            if isinstance(content, bytes):
                (fresh / name).write_bytes(content)
            else:
                save_file({key: tensor.detach().cpu().contiguous() for key, tensor in content.items()}, fresh / name)
        hashes = {name: _sha256((fresh / name).read_bytes()) for name in weights}
        config = {"format": kind.format, "version": kind.version, **facts, "files": hashes}
        (fresh / "config.json").write_text(json.dumps(config, indent=1))
        (fresh / "README.md").write_text(card)
        if extras is not None:
            shutil.copytree(extras, fresh / extras.name)
        for path in fresh.iterdir():
            _sync(path)
        if out.exists():
            out.rename(old)
        fresh.rename(out)
        _sync(out.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def read_directory(path: Path, kind: DirectoryKind) -> dict[str, Any]:
    """The config of a directory whose files of weights are all there and undamaged.

    Raises:
        UserError: not a directory of this kind, another version, or damaged.
    """
    if not path.is_dir():
        raise UserError(f"there is no {kind.noun} directory {path}; give what `{kind.maker}` made.")
    try:
        config = json.loads((path / "config.json").read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} is not a {kind.noun} directory: it has no config.json.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}/config.json cannot be read ({error}); the copy is damaged.") from error
    if not isinstance(config, dict) or config.get("format") != kind.format:
        raise UserError(
            f"{path}/config.json is of something else: wanted a {kind.noun} directory, what `{kind.maker}` made."
        )
    if config.get("version") not in (versions := (*kind.older_versions, kind.version)):
        raise UserError(
            f"{path} is a {kind.noun} of version {config.get('version')}, this code reads "
            f"{' and '.join(map(str, versions))}; use the "
            f"worldmodel that wrote it, or make it again with `{kind.maker}`."
        )
    hashes = config.get("files")
    hashes = hashes if isinstance(hashes, dict) else {}
    for name in dict.fromkeys((*kind.files, *hashes)):
        if not (path / name).is_file():
            raise UserError(f"{path} has no {name}; the copy is not whole, copy the directory again.")
        if _sha256((path / name).read_bytes()) != hashes.get(name):
            raise UserError(
                f"{path}/{name} is damaged or of another {kind.noun}: its sha256 is not the one noted in config.json."
            )
    return config


def load_matching_weights(module: nn.Module, weights: dict[str, Tensor], what: str, remedy: str) -> None:
    """Load weights and buffers that must be a module's own, all of them.

    Args:
        module: loaded in place.
        weights: its state dict.
        what: the sentence's subject, e.g. "the weights of runs/cover".
        remedy: the next sentence.

    Raises:
        UserError: a tensor is missing, too many, or of another shape; the first is named.
    """
    ours = module.state_dict()

    def told(tensors: dict[str, Tensor], name: str) -> str:
        return f"of shape {tuple(tensors[name].shape)}" if name in tensors else "missing"

    for name in sorted(ours.keys() | weights.keys()):
        if told(weights, name) != told(ours, name):
            raise UserError(f"{what} do not fit: {name} is {told(weights, name)}, wanted {told(ours, name)}. {remedy}")
    module.load_state_dict(weights, strict=True)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
