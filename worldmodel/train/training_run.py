"""What every stage of a training shares: where it works, what it computes on and how it reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldmodel.common.runtime import Runtime
from worldmodel.data import Dataset
from worldmodel.world.world_model import WorldModel

LOG_FOLDER = "training"  # subfolder for the log; it is kept with the result

Progress = Callable[[str, int, int, dict[str, float]], None]  # stage, steps done, steps in total or 0, metrics
# world, data, episodes (n,), first frames (n,), frames of a clip, seed -> image (H, W, 3) uint8
DrawDreams = Callable[[WorldModel, Dataset, np.ndarray, np.ndarray, int, int], np.ndarray]


@dataclass(frozen=True)
class TrainingRun:
    """One training, from its first stage to its last.

    Attributes:
        folder: holds checkpoints and codes and, in its subfolder `training`, the log.
        runtime: device, number format and processes.
        progress: called at every logged step as (stage, steps done, steps in total or 0, metrics).
        draw_dreams: draws dreams of validation clips; None logs no images of dreams.
    """

    folder: Path
    runtime: Runtime
    progress: Progress | None = None
    draw_dreams: DrawDreams | None = None

    @property
    def log_folder(self) -> Path:
        """Where the log is written."""
        return self.folder / LOG_FOLDER
