"""What a training writes about itself: figures by step as lines of JSON and TensorBoard's curves, and pictures."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from worldmodel.common.files import atomic_path


class Log:
    """The log of one loop; without TensorBoard's files where that is not installed.

    Args:
        folder: `<stage>.jsonl`, `<stage>.png` and `tensorboard/<stage>` are written there.
        stage: the loop.
        first: step that the loop continues from; what was written after it will be written again.
    """

    def __init__(self, folder: Path, stage: str, first: int) -> None:
        self.path, self.picture_path = folder / f"{stage}.jsonl", folder / f"{stage}.png"
        kept = []
        if self.path.exists():
            lines = [line for line in self.path.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["step"] <= first]
        self.path.write_text("".join(line + "\n" for line in kept))
        self.writer: Any = None
        if find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder / "tensorboard" / stage), purge_step=first + 1)

    def write(self, step: int, figures: dict[str, float]) -> None:
        """A line of figures."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        if self.writer is not None:
            for name, value in figures.items():
                self.writer.add_scalar(name, value, step)

    def draw(self, step: int, name: str, picture: np.ndarray) -> None:
        """A picture, (H, W, 3) uint8: one of TensorBoard's, and `<stage>.png` until the next."""
        if self.writer is not None:
            self.writer.add_image(name, picture, step, dataformats="HWC")
        with atomic_path(self.picture_path) as temporary:
            Image.fromarray(picture).save(temporary)

    def close(self) -> None:
        """Flush TensorBoard's file."""
        if self.writer is not None:
            self.writer.close()
