"""The verb `export`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Export:
    """Export a world to ONNX: onnxruntime steps it faster on a CPU, and without torch.

    Example:
        worldmodel export runs/cover
    """

    directory: tyro.conf.Positional[Path]
    """A world directory, or the name of a world that is shipped with the package."""
    onnx: Path | None = None
    """The directory to make; if not given, 'onnx' in the world directory, where the dream environments find it."""
    force: bool = False
    """Replace an existing export."""


def export(config: Export) -> None:
    """Export, and print the directory and its size."""
    from worldmodel.cli.outputs import refuse_existing
    from worldmodel.common.text import human_bytes
    from worldmodel.onnx.export import OWN, export_world
    from worldmodel.world.hub import find_world
    from worldmodel.world.world_model import WorldModel

    world = WorldModel.from_pretrained(config.directory)
    out = config.onnx or find_world(config.directory) / OWN
    refuse_existing(out, config.force, "--onnx")
    export_world(world, out, lambda module: print(f"{module} ...", file=sys.stderr))
    print(f"{out}: {human_bytes(sum(file.stat().st_size for file in out.iterdir()))}")
