"""A world written out for onnxruntime: a directory that `plain.world` steps without torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from worldmodel.common.directories import check_target, write_directory
from worldmodel.onnx.graphs import facts_of, graphs_of, to_onnx
from worldmodel.onnx.onnx_world import EXPORT, STARTS
from worldmodel.world.world_model import WorldModel

OWN = "onnx"  # the folder of a world's directory in which it carries its own export


def world_hash(world: WorldModel) -> str:
    """sha256 of everything that decides a world's dreams but its starts: sizes, spaces and weights."""
    sizes = [asdict(world.tokenizer.config), asdict(world.prior.config), world.spec.to_json()]
    digest = hashlib.sha256(json.dumps(sizes).encode())
    for name, tensor in sorted(world.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def export_world(world: WorldModel, out: str | Path, tell: Callable[[str], None] | None = None) -> Path:
    """Write a world for onnxruntime, all of it or nothing.

    Args:
        world: on the CPU, with its starts.
        out: the directory; made, or replaced if it holds an export already.
        tell: told of every part before it is made.

    Returns:
        The directory.

    Raises:
        UserError: a prior that cannot be stepped, packages that are not installed, or something else at `out`.
    """
    assert world.starts is not None, "a world is exported with its starts"
    check_target(Path(out), EXPORT)
    facts = {
        "world": world_hash(world),
        "spec": world.spec.to_json(),
        "prior": facts_of(world.prior),
        "status": {**asdict(world.prior.status_config), "values": world.prior.status_config.values},
    }
    files: dict[str, dict[str, Tensor] | bytes] = {STARTS: world.starts.tensors()}
    for name, graph in graphs_of(world).items():
        if tell is not None:
            tell(name)
        files[f"{name}.onnx"] = to_onnx(graph)
    write_directory(Path(out), EXPORT, facts, files, _card(world), None)
    return Path(out)


def exported(world: WorldModel) -> Path:
    """A directory with a world's export: the one it carries, or one kept for its weights, made if there is none.

    Kept ones lie in `$XDG_CACHE_HOME/worldmodel/onnx` (`~/.cache/worldmodel/onnx`), a few MB each.
    """
    carried = own_export(world)
    if carried is not None:
        return carried
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "worldmodel" / "onnx"
    assert world.starts is not None
    digest = hashlib.sha256(f"{EXPORT.version} {world_hash(world)}".encode())
    for tensor in world.starts.tensors().values():
        digest.update(tensor.cpu().numpy().tobytes())
    kept = cache / digest.hexdigest()[:32]
    return kept if EXPORT.is_stored_at(kept) else export_world(world, kept)


def own_export(world: WorldModel) -> Path | None:
    """The export in the directory a world was read from, if it has one and its weights are still those."""
    if world.directory is None or not EXPORT.is_stored_at(world.directory / OWN):
        return None
    config: dict[str, Any] = json.loads((world.directory / OWN / "config.json").read_text())
    return world.directory / OWN if config.get("world") == world_hash(world) else None


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
