"""The verb `train world`: its config and its function."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import tyro

from worldmodel.presets import PRESETS as WORLDS
from worldmodel.train.config import WorldConfig


@dataclass(frozen=True)
class TrainWorld:
    """Learn a world from a dataset: tokenizer, codes, prior. The same command continues a stopped training.

    Example:
        worldmodel train world --preset doom-take-cover-demo --data cover.h5 --out runs/cover --minutes 20
    """

    data: tuple[Path, ...]
    """Dataset files."""
    out: Path
    """The world directory to make."""
    world: WorldConfig = field(default_factory=WorldConfig)
    """Sizes and loops."""
    minutes: float | None = None
    """Budget of both loops together; the preset's own if not given."""
    device: str = "auto"
    """auto, cpu or cuda."""
    preset: str = ""
    """Set by --preset."""
    force: bool = False
    """Replace what stands at --out."""
    json: bool = False
    """Print the figures as JSON."""

    PRESETS: ClassVar[dict[str, TrainWorld]] = {}


TrainWorld.PRESETS.update({name: TrainWorld(tyro.MISSING, tyro.MISSING, world) for name, world in WORLDS.items()})


def train_world(config: TrainWorld) -> None:
    """Train, with a bar, and print what came out."""
    from worldmodel.commands import progress_bar
    from worldmodel.runinfo import save_run_info
    from worldmodel.train.world import train_world as train

    with progress_bar() as progress:
        world = train(
            list(config.data),
            config.out,
            config.world,
            minutes=config.minutes,
            device=config.device,
            progress=progress,
            force=config.force,
        )
    save_run_info(config.out / "run.json", "train world", config)
    figures = {"world": str(config.out), **world.report}
    text = "\n".join(f"{key}: {value}" for key, value in figures.items())
    print(json.dumps(figures) if config.json else text)
