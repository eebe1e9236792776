"""A world written for onnxruntime: a directory that `onnx.onnx_world` steps without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from worldmodel.common.assets import cache_folder
from worldmodel.common.directories import check_target, write_directory
from worldmodel.onnx.graphs import prior_facts, to_onnx, world_graphs
from worldmodel.onnx.onnx_world import EXPORT, STARTS
from worldmodel.world.world_model import WorldModel

EXPORT_FOLDER = "onnx"  # the folder of a world's directory that holds its own export


def world_hash(world: WorldModel) -> str:
    """sha256 of everything that decides a world's dreams except its starts: sizes, spaces and weights."""
    sizes = [world.tokenizer.config.saved_fields(), world.prior.config.hashed_fields(), world.spec.to_json()]
    digest = hashlib.sha256(json.dumps(sizes).encode())
    for name, tensor in sorted(world.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def export_world(world: WorldModel, out: str | Path, report: Callable[[str], None] | None = None) -> Path:
    """Write a world for onnxruntime, atomically.

    Args:
        world: on the CPU, with its starts.
        out: the directory; made, or replaced if it holds an export already.
        report: called with the name of every graph before it is made.

    Returns:
        The directory.

    Raises:
        UserError: a prior whose step cannot be exported, packages that are not installed, or something else at `out`.
    """
    assert world.starts is not None, "a world is exported with its starts"
    check_target(Path(out), EXPORT)
    facts = {
        "world": world_hash(world),
        "spec": world.spec.to_json(),
        "prior": prior_facts(world.prior),
        "status": {**asdict(world.prior.status_config), "values": world.prior.status_config.values},
    }
    files: dict[str, dict[str, Tensor] | bytes] = {STARTS: world.starts.tensors()}
    for name, graph in world_graphs(world).items():
        if report is not None:
            report(name)
        files[f"{name}.onnx"] = to_onnx(graph)
    write_directory(Path(out), EXPORT, facts, files, _card(world), None)
    return Path(out)


def find_or_make_export(world: WorldModel) -> Path:
    """A directory with a world's export: the world's own, or one in the cache, which is made if it is missing.

    The cache is `$XDG_CACHE_HOME/worldmodel/onnx` (`~/.cache/worldmodel/onnx`), with a few MB per world.
    """
    carried = carried_export(world)
    if carried is not None:
        return carried
    assert world.starts is not None
    digest = hashlib.sha256(f"{EXPORT.version} {world_hash(world)}".encode())
    for tensor in world.starts.tensors().values():
        digest.update(tensor.cpu().numpy().tobytes())
    cached = cache_folder("onnx") / digest.hexdigest()[:32]
    return cached if _read_config(cached) is not None else export_world(world, cached)


def carried_export(world: WorldModel) -> Path | None:
    """The export in the directory a world was read from, if there is one of this version and of the current weights."""
    if world.directory is None:
        return None
    directory = world.directory / EXPORT_FOLDER
    config = _read_config(directory)
    return directory if config is not None and config.get("world") == world_hash(world) else None


def _read_config(directory: Path) -> dict[str, Any] | None:
    """The config of an export of the version that this code reads, or None."""
    if not EXPORT.is_stored_at(directory):
        return None
    config: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return config if config.get("version") == EXPORT.version else None


def _card(world: WorldModel) -> str:
    (h, w), spec = world.tokenizer.grid, world.spec
    return (
        f"# A learned {spec.env}, for onnxruntime\n\n"
        f"Frames of {h} x {w} codes, actions {spec.action_space}. Needs onnxruntime and numpy, no torch.\n\n"
        "```python\nimport numpy as np\nfrom worldmodel.onnx import OnnxSimulator\n\n"
        'dreams = OnnxSimulator("DIR", num_rows=2, seed=0)\nframes = dreams.reset()\n'
        f"step = dreams.step(np.zeros({(2, *spec.action_space.shape)}, np.{spec.action_space.dtype}))"
        "  # .frames .rewards .terminations\n```\n"
    )
