"""The verb `train border`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from worldmodel.train.training_config import LoopConfig


@dataclass(frozen=True)
class TrainBorder:
    """Give a world of cropped frames the whole frames of its environment.

    Trains a decoder of what lies outside the crop. Codes, prior and starts stay as they are, so what happens in the
    dream does not change. The same command continues a stopped training.

    Example:
        worldmodel train border --world runs/crop --data cover.h5 --out runs/whole
    """

    world: Path
    """The world: a directory, or the name of one that comes with the package."""
    data: tuple[Path, ...]
    """Recordings of its environment, whole frames."""
    out: Path
    """The world directory to make."""
    loop: Annotated[LoopConfig, tyro.conf.arg(name="")] = field(
        default_factory=lambda: LoopConfig(minutes=4.0, batch_size=8, clip_length=2, learning_rate=3e-3)
    )
    """The training loop."""
    seed: int = 0
    device: str = "auto"
    """auto, cpu or cuda."""
    force: bool = False
    """Replace an existing --out."""
    json: bool = False
    """Print the figures as JSON."""


def train_border(config: TrainBorder) -> None:
    """Train with a progress bar, and print the report."""
    from worldmodel.cli.progress import progress_bar
    from worldmodel.common.run_info import save_run_info
    from worldmodel.train.border_training import train_border as train

    with progress_bar() as progress:
        world = train(
            config.world,
            list(config.data),
            config.out,
            config.loop,
            seed=config.seed,
            device=config.device,
            progress=progress,
            force=config.force,
        )
    save_run_info(config.out / "run.json", "train border", config)
    figures = {"world": str(config.out), **world.report}
    print(json.dumps(figures) if config.json else "\n".join(f"{key}: {value}" for key, value in figures.items()))
