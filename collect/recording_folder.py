"""The working folder of a recording: lock, state, part files, job and logs of the workers, process records."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

from worldmodel.common.errors import UserError
from worldmodel.common.files import check_free_space, write_error, write_json_atomic
from worldmodel.common.locks import acquire_lock
from worldmodel.data.header import Header
from worldmodel.data.parts import PartWriter

IGNORED_FIELDS = ("action_keys", "code_version")  # header fields that may differ when a recording is continued


def same_recording(a: Header, b: Header) -> bool:
    """Whether two headers describe the same recording."""
    left, right = a.to_json(), b.to_json()
    return all(left[key] == right[key] for key in left if key not in IGNORED_FIELDS)


def estimate_bytes(header: Header, episodes: int) -> int | None:
    """Upper bound of the size of episodes in bytes; None if their length is not limited."""
    if header.max_steps is None:
        return None
    height, width, channels = header.pixels.frame_shape
    return episodes * (header.max_steps + 1) * (height * width * channels + 64)


class RecordingFolder:
    """The working folder NAME.h5.parts/. It exists from the start of a recording until its file is sealed.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.process_records = path / "processes"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder and lock it for this process. The lock of a killed process is released.

        Raises:
            UserError: another process records there, or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(self.path, error) from error
        refusal = f"another process is recording to {self.path}; wait for it or choose another path."
        lock = acquire_lock(self.path / "lock", refusal)
        try:
            yield
        finally:
            lock.release()

    def resume(self, header: Header) -> tuple[Header, str]:
        """Start the recording, or continue a stopped one.

        Args:
            header: of the recording.

        Returns:
            The header of the first start, and the run token for the process manager.

        Raises:
            UserError: the folder contains a different recording.
        """
        plan = self.path / "plan.json"
        if plan.exists():
            state = json.loads(plan.read_text())
            if not same_recording(Header.from_json(state["header"]), header):
                raise UserError(
                    f"{self.path} contains a different, stopped recording; choose another path, or remove it with "
                    "--force."
                )
        else:
            state = {"header": header.to_json(), "token": uuid.uuid4().hex}
            write_json_atomic(plan, state, indent=None)
        for leftover in self.path.glob(".sealed*"):
            leftover.unlink()
        self.process_records.mkdir(exist_ok=True)
        return Header.from_json(state["header"]), state["token"]

    def parts(self) -> list[Path]:
        """The part files, sorted."""
        return sorted(self.path.glob("part-*.bin"))

    def part(self, slot: int) -> Path:
        """The part file of a worker."""
        return self.path / f"part-{slot:03d}.bin"

    def recorded(self, header: Header) -> set[int]:
        """Indices of the episodes in the part files. An incomplete last episode is truncated."""
        indices: set[int] = set()
        for path in self.parts():
            with PartWriter(path, header) as part:
                indices |= part.indices
        return indices

    def check_space(self, header: Header, episodes: int) -> None:
        """Refuse to record more episodes than the disk can hold, with their sealed copy.

        Raises:
            UserError: too little space.
        """
        new_bytes = estimate_bytes(header, episodes)
        if new_bytes is not None:
            written_bytes = sum(part.stat().st_size for part in self.parts())
            what = f"recording {episodes} episodes of up to {header.max_steps} steps, with their sealed copy,"
            check_free_space(self.path, written_bytes + 2 * new_bytes, what)
