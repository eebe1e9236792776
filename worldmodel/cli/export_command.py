"""The verb `export`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from worldmodel.common.errors import UserError


@dataclass(frozen=True)
class Export:
    """Write a world for onnxruntime: it then steps faster on a CPU, and without torch.

    Example:
        worldmodel export runs/cover
    """

    directory: tyro.conf.Positional[Path]
    """The world, or the name of one that comes with the package."""
    onnx: Path | None = None
    """The directory to make; if not given, 'onnx' inside the world's own, where the dream's faces find it."""
    force: bool = False
    """Replace the export that stands there."""


def export(config: Export) -> None:
    """Export, and say where it lies."""
    from worldmodel.common.text import human_bytes
    from worldmodel.onnx.export import EXPORT_FOLDER, export_world
    from worldmodel.world.hub import find_world
    from worldmodel.world.world_model import WorldModel

    world = WorldModel.from_pretrained(config.directory)
    out = config.onnx or find_world(config.directory) / EXPORT_FOLDER
    if out.exists() and not config.force:
        raise UserError(f"{out} exists; choose another --onnx, or --force to replace it.")
    export_world(world, out, lambda part: print(f"{part} ...", file=sys.stderr))
    print(f"{out}: {human_bytes(sum(file.stat().st_size for file in out.iterdir()))}")
