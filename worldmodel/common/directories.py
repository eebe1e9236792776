"""Model directories: config.json with the sha256 of every weight file, the weights, a card. No pickle.

A directory is written atomically. Reading one loads no torch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldmodel.common.errors import UserError
from worldmodel.common.files import atomic_directory, expand_path
from worldmodel.common.tensor_files import write_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class DirectoryKind:
    """A kind of model directory.

    Attributes:
        name: what users call it, e.g. "world".
        format: the value of "format" in config.json that identifies the kind.
        version: the version that this code writes and reads.
        files: names of the files that every directory of this kind has.
        command: the command that writes such a directory.
        older_versions: versions that this code reads too.
    """

    name: str
    format: str
    version: int
    files: tuple[str, ...]
    command: str
    older_versions: tuple[int, ...] = ()

    def is_stored_at(self, path: Path) -> bool:
        """Whether `path` is a directory of this kind, of any version, by its config.json."""
        try:
            return json.loads((expand_path(path) / "config.json").read_text()).get("format") == self.format
        except (OSError, ValueError, AttributeError):
            return False


def check_target(out: Path, kind: DirectoryKind) -> None:
    """Refuse to overwrite anything but an empty folder or a directory of the same kind.

    Raises:
        UserError: `out` is something else.
    """
    out = expand_path(out)
    if out.exists() and not kind.is_stored_at(out) and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists and is not a {kind.name} directory; choose another path or remove it.")


def write_directory(
    out: Path,
    kind: DirectoryKind,
    config: dict[str, Any],
    weights: Mapping[str, dict[str, Tensor] | bytes],
    card: str,
    extra_folder: Path | None,
) -> None:
    """Write a model directory atomically: under a temporary name, then renamed.

    Args:
        out: the directory to create; one of the same kind is replaced.
        kind: its kind.
        config: JSON entries of config.json; format, version and the sha256 of the files are added.
        weights: file name -> tensors, or the bytes of the file.
        card: the text of README.md.
        extra_folder: a folder that is copied into the directory under its own name (the training log).

    Raises:
        UserError: `out` is something else, or cannot be written.
    """
    out = expand_path(out)
    check_target(out, kind)
    with atomic_directory(out) as fresh:
        for name, content in weights.items():
            if isinstance(content, bytes):
                (fresh / name).write_bytes(content)
            else:
                write_tensors(fresh / name, content)
        hashes = {name: _sha256((fresh / name).read_bytes()) for name in weights}
        stored = {"format": kind.format, "version": kind.version, **config, "files": hashes}
        (fresh / "config.json").write_text(json.dumps(stored, indent=1))
        (fresh / "README.md").write_text(card)
        if extra_folder is not None:
            shutil.copytree(extra_folder, fresh / extra_folder.name)


def read_directory(path: Path, kind: DirectoryKind) -> dict[str, Any]:
    """Read config.json after checking that every weight file is present and has its sha256.

    Returns:
        The content of config.json.

    Raises:
        UserError: not a directory of this kind, another version, or damaged.
    """
    path = expand_path(path)
    if not path.is_dir():
        raise UserError(f"there is no {kind.name} directory {path}; give the path of one that `{kind.command}` wrote.")
    try:
        config = json.loads((path / "config.json").read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} is not a {kind.name} directory: it has no config.json.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}/config.json cannot be read ({error}); copy the directory again.") from error
    if not isinstance(config, dict) or config.get("format") != kind.format:
        raise UserError(
            f"{path} is not a {kind.name} directory: its config.json describes something else. Give the path of one "
            f"that `{kind.command}` wrote."
        )
    if config.get("version") not in (versions := (*kind.older_versions, kind.version)):
        raise UserError(
            f"{path} is a {kind.name} of format version {config.get('version')}; this code reads version "
            f"{' and '.join(map(str, versions))}. Use the worldmodel version that wrote it, or create it again with "
            f"`{kind.command}`."
        )
    hashes = config.get("files")
    hashes = hashes if isinstance(hashes, dict) else {}
    for name in dict.fromkeys((*kind.files, *hashes)):
        if not (path / name).is_file():
            raise UserError(f"{path} has no {name}: the copy is incomplete. Copy the directory again.")
        if _sha256((path / name).read_bytes()) != hashes.get(name):
            raise UserError(
                f"{path}/{name} is damaged or belongs to another {kind.name}: its sha256 is not the one in "
                "config.json. Copy the directory again."
            )
    return config


def load_matching_weights(module: nn.Module, weights: dict[str, Tensor], what: str, remedy: str) -> None:
    """Load a state dict that must have exactly the tensors of a module, in their shapes.

    Args:
        module: loaded in place.
        weights: the state dict.
        what: the subject of the error message, e.g. "the weights of runs/cover".
        remedy: the last sentence of the error message.

    Raises:
        UserError: a tensor is missing, unknown or of another shape; the first one is named.
    """
    expected = module.state_dict()

    def describe(tensors: dict[str, Tensor], name: str, absent: str) -> str:
        return f"of shape {tuple(tensors[name].shape)}" if name in tensors else absent

    for name in sorted(expected.keys() | weights.keys()):
        got, wanted = describe(weights, name, "missing"), describe(expected, name, "none")
        if got != wanted:
            raise UserError(f"{what} do not fit: {name} is {got}, wanted {wanted}. {remedy}")
    module.load_state_dict(weights, strict=True)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
