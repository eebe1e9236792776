"""The verb `compress`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Compress:
    """Copy a world in about half its size: the prior's matrices in bfloat16, fewer starts, no training log.

    The tokenizer stays exact, so every frame has the same codes. Rounding changes the prior's probabilities a little:
    evaluate the copy (`worldmodel eval world`). A loaded world has float32 weights, as every other.

    Example:
        worldmodel compress runs/cover --out cover-small
    """

    world: tyro.conf.Positional[Path]
    """A world directory, or the name of a world that comes with the package."""
    out: Path
    """The directory to make."""
    starts: int = 256
    """Starts to keep, at most; of each kind (first frames of episodes, other frames) an equal share."""
    force: bool = False
    """Replace a world at --out."""


def compress(config: Compress) -> None:
    """Write the copy, and print its size."""
    from worldmodel.cli.outputs import refuse_existing
    from worldmodel.common.text import human_bytes
    from worldmodel.world.hub import find_world
    from worldmodel.world.world_model import WorldModel

    world = WorldModel.from_pretrained(config.world)
    out = config.out.expanduser()
    refuse_existing(out, config.force, "--out")
    assert world.starts is not None
    world.starts = world.starts.thin(config.starts)
    world.save_pretrained(out, half=True)
    before, after = (
        sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        for folder in (find_world(config.world), out)
    )
    print(f"{out}: {human_bytes(after)}, {len(world.starts)} starts; {config.world}: {human_bytes(before)}")
