"""The log of a training: metrics by step as lines of JSON and for TensorBoard, and images."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from worldmodel.common.files import atomic_path


class Log:
    """The log of one stage; without TensorBoard files where TensorBoard is not installed.

    Args:
        folder: `<stage>.jsonl`, `<stage>.png` and `tensorboard/<stage>` are written there.
        stage: name of the stage.
        first: step that the loop continues from; later lines are removed, since they will be written again.
    """

    def __init__(self, folder: Path, stage: str, first: int) -> None:
        self.path, self.image_path = folder / f"{stage}.jsonl", folder / f"{stage}.png"
        kept = []
        if self.path.exists():
            lines = [line for line in self.path.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["step"] <= first]
        self.path.write_text("".join(line + "\n" for line in kept))
        self.writer: Any = None
        if find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder / "tensorboard" / stage), purge_step=first + 1)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Append a line of metrics."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        if self.writer is not None:
            for name, value in metrics.items():
                self.writer.add_scalar(name, value, step)

    def draw(self, step: int, name: str, image: np.ndarray) -> None:
        """Add an image, (H, W, 3) uint8, to TensorBoard, and replace `<stage>.png` with it."""
        if self.writer is not None:
            self.writer.add_image(name, image, step, dataformats="HWC")
        with atomic_path(self.image_path) as temporary:
            Image.fromarray(image).save(temporary)

    def close(self) -> None:
        """Flush and close the files of TensorBoard."""
        if self.writer is not None:
            self.writer.close()
