"""A disk that is full: every verb that writes ends in one sentence and code 2, and leaves nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from worldmodel.cli.command_line import main
from worldmodel.cli.failures import failure_sentence
from worldmodel.collect import record

resource = pytest.importorskip("resource")  # POSIX: a limit of the size of files stands for a full disk

LIMIT = 200  # bytes
COMMANDS = {
    "predict png": "predict --world toy --data toy.h5 --out out/p.png --length 4",
    "predict gif": "predict --world toy --data toy.h5 --out out/p.gif --length 4",
    "predict mp4": "predict --world toy --data toy.h5 --out out/p.mp4 --length 4",
    "sample": "sample --world toy --num 2 --length 3 --out out/s.gif",
    "preview": "data preview toy.h5 --out out/preview",
    "eval": "eval world toy --data toy.h5 --metrics psnr --clips 2 --ahead 2 --rows 2 --horizon 4 --out out/e.json",
    "export": "export toy --onnx out/onnx",
}
# Runs everything in one process, since loading torch takes seconds. Prints {"commands": {name: [exit code, stderr,
# files]}, "libraries": {name: sentence}}.
SCRIPT = """
import contextlib, io, json, resource, sys
from pathlib import Path
import h5py, numpy, safetensors.torch, torch
from worldmodel.cli.command_line import main
from worldmodel.cli.failures import failure_sentence
from worldmodel.onnx import export

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def write_hdf5():
    limit(4000)  # its header fits
    with h5py.File("d.h5", "w") as file:
        file["x"] = numpy.zeros(10_000)

tensors = {"x": torch.zeros(1000)}
writers = {
    "torch": lambda: torch.save(tensors, "a.pt"),
    "torch, Python file": lambda: torch.save(tensors, open("b.pt", "wb")),
    "safetensors": lambda: safetensors.torch.save_file(tensors, "c.safetensors"),
    "numpy": lambda: numpy.zeros(1000).tofile("f.bin"),
    "Python": lambda: open("g.txt", "w").write("x" * 10_000),
    "HDF5": write_hdf5,
}
export.to_onnx = lambda graph: b"x" * 1000  # only the writing of its bytes is tested
commands, libraries = {}, {}
limit(int(sys.argv[1]))
for name, command in json.loads(sys.argv[2]).items():
    code, error = 0, io.StringIO()
    try:
        with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
            main(command.split())
    except SystemExit as stop:
        code = stop.code
    except BaseException as failure:
        code = repr(failure)
    files = [str(path) for path in Path("out").rglob("*") if path.is_file()]
    commands[name] = [code, error.getvalue(), files]
for name, write in writers.items():
    try:
        write()
    except Exception as error:
        libraries[name] = failure_sentence(error)
limit(resource.RLIM_INFINITY)
print(json.dumps({"commands": commands, "libraries": libraries}), flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    record("toy", "sticky", folder / "toy.h5", episodes=30, progress=False, size=(16, 16))
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, dict[str, Any]]:
    pytest.importorskip("av")
    command = [sys.executable, "-c", SCRIPT, str(LIMIT), json.dumps(COMMANDS)]
    # git, which reads the version of the code, must not try to write the index of this checkout under the limit
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(name: str, results: dict[str, dict[str, Any]]) -> None:
    code, message, files = results["commands"][name]
    sentence = next(line for line in message.splitlines() if line.startswith("worldmodel: "))
    assert code == 2, message
    assert message.splitlines()[-1] == sentence, "nothing follows the sentence"
    assert "File too large" in sentence
    assert "Free some space" in sentence
    assert not any(name_of in message for name_of in ("Traceback", "Error"))
    assert files == []


def test_the_failed_writes_of_all_libraries_are_recognised(results: dict[str, dict[str, Any]]) -> None:
    sentences = results["libraries"]
    assert len(sentences) == 6
    for name, sentence in sentences.items():
        assert sentence is not None, name
        assert any(words in sentence for words in ("File too large", "disk may be full", "25 written")), sentence
        assert "\n" not in sentence


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "x"), "cannot write a file: No space left on device. Free some space"),
        (OSError(errno.ENOSPC, "x", "a.h5"), "a.h5: No space left on device. Free some space"),
        (OSError(errno.EROFS, "x", "a.h5"), "a.h5: Read-only file system."),
        (PermissionError(errno.EACCES, "x", "a.h5"), "a.h5: Permission denied."),
        (OSError("368640 requested and 2000 written"), "368640 requested and 2000 written."),
        (OSError(), "OSError."),
        (OSError("Can't write (errno = 28, error\nand more)"), "cannot write a file: No space left on device. Free"),
        (RuntimeError("Can't decrement id (errno = 27, error"), "cannot write a file: File too large. Free"),
        (OSError(541478725, "End of file"), "[Errno 541478725] End of file."),
    ],
)
def test_every_error_of_the_system_is_one_sentence(
    error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import worldmodel.cli.env_commands

    def fail(config: object) -> None:
        raise error

    monkeypatch.setattr(worldmodel.cli.env_commands, "envs", fail)
    with pytest.raises(SystemExit) as exit_:
        main(["envs"])
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(f"worldmodel: {sentence}")
    assert message.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ValueError("a bug"), KeyError("x")])
def test_other_errors_keep_their_traceback(error: Exception) -> None:
    assert failure_sentence(error) is None


def test_a_closed_pipe_ends_the_command_silently() -> None:
    code = "from worldmodel.cli.command_line import main; main(['envs'])"
    process = subprocess.Popen([sys.executable, "-uc", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141
