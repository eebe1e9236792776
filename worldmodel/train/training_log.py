"""The log of a training: metrics by step as lines of JSON and for TensorBoard, and images."""

from __future__ import annotations

import json
import os
import socket
import time
from importlib.util import find_spec
from io import BytesIO
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
        written = self.path.read_text() if self.path.exists() else ""
        lines = [line for line in written.splitlines() if line.endswith("}")]
        kept = "".join(line + "\n" for line in lines if json.loads(line)["step"] <= first)
        if kept != written or not self.path.exists():
            with atomic_path(self.path) as temporary:
                temporary.write_text(kept)
        self.events = EventFile(folder / "tensorboard" / stage, first) if find_spec("tensorboard") else None

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Append a line of metrics."""
        append_bytes(self.path, (json.dumps({"step": step, **metrics}) + "\n").encode())
        if self.events is not None:
            self.events.add_scalars(step, metrics)

    def draw(self, step: int, name: str, image: np.ndarray) -> None:
        """Add an image, (H, W, 3) uint8, to TensorBoard, and replace `<stage>.png` with it."""
        if self.events is not None:
            self.events.add_image(step, name, image)
        encoded = BytesIO()  # written by Python, since the errors of Pillow's encoders have no number
        Image.fromarray(image).save(encoded, "png")
        with atomic_path(self.image_path) as temporary:
            temporary.write_bytes(encoded.getvalue())


class EventFile:
    """A file of TensorBoard, written at once: torch's `SummaryWriter` writes in a thread, where errors are lost.

    Args:
        folder: a new file is made in it.
        first: step that the loop continues from; TensorBoard ignores what other files of the folder hold after it.
    """

    def __init__(self, folder: Path, first: int) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{os.urandom(3).hex()}"
        self.path = folder / name
        self._add([{"file_version": "brain.Event:2"}, {"session_log": SessionLog(status=SessionLog.START)}], first + 1)

    def add_scalars(self, step: int, values: dict[str, float]) -> None:
        """Add numbers by name."""
        from torch.utils.tensorboard import summary

        self._add([{"summary": summary.scalar(name, value)} for name, value in values.items()], step)

    def add_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Add an image, (H, W, 3) uint8."""
        from torch.utils.tensorboard import summary

        self._add([{"summary": summary.image(name, image, dataformats="HWC")}], step)

    def _add(self, events: list[dict[str, Any]], step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        buffer = BytesIO()
        for fields in events:
            RecordWriter(buffer).write(Event(wall_time=time.time(), step=step, **fields).SerializeToString())
        append_bytes(self.path, buffer.getvalue())


def append_bytes(path: Path, content: bytes) -> None:
    """Append to a file, or leave it as it is where that fails, as on a full disk.

    Raises:
        OSError: the content cannot be written.
    """
    with path.open("ab", buffering=0) as file:
        size, rest = file.tell(), memoryview(content)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(size)
            raise
