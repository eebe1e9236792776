"""A disk that is full while a world is trained: one sentence, nothing half-written, and the same call continues.

A limit of the size of files stands for a full disk. It holds while one function runs, so that each writer meets it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from square import digests, record_square, short

from worldmodel.common.errors import UserError
from worldmodel.train import loop, train_world, trainers, training_log, workspace
from worldmodel.world.world_model import WorldModel

resource = pytest.importorskip("resource")

# writer -> module or class, attribute, whether a call meets the full disk, by its first argument and its number
WRITERS: dict[str, tuple[Any, str, Callable[[Any, int], bool], int]] = {
    "run.json": (workspace.Workspace, "_claim", lambda *_: True, 100),
    "first log": (loop, "Log", lambda *_: True, 20),
    "metrics": (training_log, "append_bytes", lambda path, number: path.suffix == ".jsonl" and number > 3, 20),
    "TensorBoard": (training_log, "append_bytes", lambda path, number: "events" in path.name and number > 6, 200),
    "image": (Path, "write_bytes", lambda path, _: path.suffix == ".png", 50),
    "image for TensorBoard": (training_log.EventFile, "add_image", lambda *_: True, 100),
    "first checkpoint": (loop, "save_checkpoint", lambda _, number: number == 1, 1000),
    "later checkpoint": (loop, "save_checkpoint", lambda _, number: number == 3, 20_000),
    "checkpoint of the prior": (loop, "save_checkpoint", lambda _, number: number == 6, 20_000),
    "codes": (trainers, "encode_dataset", lambda *_: True, 1000),
    "header of the codes": (trainers, "encode_dataset", lambda *_: True, 0),
    "world": (WorldModel, "save_pretrained", lambda *_: True, 9000),
    "log of the world": (WorldModel, "save_pretrained", lambda *_: True, 150_000),
}


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def break_writer(name: str) -> Callable[[], None]:
    """Let calls of a writer meet a full disk; returns what restores it."""
    owner, attribute, meets, limit = WRITERS[name]
    original, calls = getattr(owner, attribute), []

    def broken(first: Any, *rest: Any, **named: Any) -> Any:
        calls.append(first)
        if not meets(first, len(calls)):
            return original(first, *rest, **named)
        with full_disk(limit):
            return original(first, *rest, **named)

    setattr(owner, attribute, broken)
    return lambda: setattr(owner, attribute, original)


def fail_and_continue(name: str, data: Path, out: Path) -> dict[str, Any]:
    """Train with a broken writer, then again with a whole one."""
    restore = break_writer(name)
    try:
        train_world(data, out, short(4), device="cpu")
        message = None
    except UserError as error:
        message = str(error)
    finally:
        restore()
    folder = out.with_name(f"{out.name}.training")
    found = {
        "message": message,
        "out": out.exists(),
        "temporary": [str(path) for path in out.parent.rglob(".*") if path.is_file()],
        "incomplete lines": [
            line
            for path in folder.rglob("*.jsonl")
            for line in path.read_text().split("\n")
            if line and not line.endswith("}")
        ],
    }
    train_world(data, out, short(4), device="cpu")
    lines = [path.read_text() for path in sorted(out.rglob("*.jsonl"))]
    return {**found, "digests": digests(out), "lines": lines, "folder": folder.exists()}


def main(folder: Path) -> None:
    """Every writer in one process, since loading torch takes seconds; prints JSON."""
    torch.set_num_threads(1)
    data = folder / "square.h5"
    record_square(data, 20).close()
    train_world(data, folder / "whole" / "world", short(4), device="cpu")
    results: dict[str, Any] = {}
    for number, name in enumerate(WRITERS):
        results[name] = fail_and_continue(name, data, folder / str(number) / "world")
    lines = [path.read_text() for path in sorted((folder / "whole").rglob("*.jsonl"))]
    results["whole"] = {"digests": digests(folder / "whole" / "world"), "lines": lines}
    print(json.dumps(results))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("full")
    done = subprocess.run([sys.executable, __file__, str(folder)], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_sentence_and_the_same_call_continues(name: str, results: dict[str, Any]) -> None:
    result, whole = results[name], results["whole"]
    assert result["message"] is not None
    assert "File too large" in result["message"]
    assert "\n" not in result["message"]
    assert not result["out"]
    assert result["temporary"] == []
    assert result["incomplete lines"] == []
    assert result["digests"] == whole["digests"]
    assert result["lines"] == whole["lines"]
    assert not result["folder"]


def test_an_interrupted_append_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log"
    training_log.append_bytes(path, b"first\n")
    with full_disk(10), pytest.raises(OSError, match="File too large"):
        training_log.append_bytes(path, b"second\n")
    assert path.read_bytes() == b"first\n"


def test_only_a_full_disk_is_explained(tmp_path: Path) -> None:
    def fail(error: Exception) -> None:
        with workspace.disk_errors(tmp_path):
            raise error

    with pytest.raises(FileNotFoundError):
        fail(FileNotFoundError(2, "No such file", "x.h5"))
    with pytest.raises(UserError, match="No space left on device"):
        fail(SafetensorError("Error while serializing: I/O error: (os error 28)"))
    with pytest.raises(UserError, match="No space left on device"):
        fail(shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")]))
    with pytest.raises(SafetensorError):
        fail(SafetensorError("Error while deserializing header"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
