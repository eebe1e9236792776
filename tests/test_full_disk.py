"""Every writer on a full disk: one sentence, nothing half-written, and the same call continues.

A limit of the size of files (`ulimit -f`) stands in for a full disk: writes beyond it fail with EFBIG, in HDF5 and
safetensors too. The writers run in a process of their own, since a crash of HDF5 would end this one.
"""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import make_episode, make_file, make_header, names_in, write_part

from worldmodel.common.directories import DirectoryKind, read_directory, write_directory
from worldmodel.common.errors import UserError
from worldmodel.common.files import atomic_directory, atomic_path, write_json_atomic
from worldmodel.common.pixels import PixelSpec
from worldmodel.common.run_info import load_run_info, save_run_info
from worldmodel.data import Dataset, PartWriter, contact_sheet, gif, merge, read_part, seal
from worldmodel.data.importers import convert
from worldmodel.data.verification import verify

KIND = DirectoryKind("model", "test.model", 1, ("model.safetensors", "raw.bin"), "test")
PIXELS = PixelSpec((32, 32))


def new_part(inputs: Path, out: Path) -> None:
    with PartWriter(out / "p", make_header(env_kwargs={"text": "x" * 5000})):
        pass


def appended_part(inputs: Path, out: Path) -> None:
    if not (out / "p").exists():
        shutil.copy(inputs / "p", out / "p")
    with PartWriter(out / "p", make_header(pixels=PIXELS)) as writer:
        assert writer.indices == set(range(6))
        writer.append(make_episode(writer.header, 6, 5))


def sealed(inputs: Path, out: Path) -> None:
    verify(seal([inputs / "p"], out / "a.h5"))


def merged(inputs: Path, out: Path) -> None:
    verify(merge([inputs / "a.h5", inputs / "b.h5"], out / "m.h5"))


def converted(inputs: Path, out: Path) -> None:
    verify(convert("npz", inputs / "npz", out / "c.h5"))


def sheet(inputs: Path, out: Path) -> None:
    contact_sheet(Dataset(inputs / "a.h5"), out / "sheet.png", num_episodes=2, num_columns=2, num_last=1)


def animation(inputs: Path, out: Path) -> None:
    gif(Dataset(inputs / "a.h5"), out / "a.gif", num_episodes=2, max_frames=4, scale=2)


def model(inputs: Path, out: Path) -> None:
    import torch

    weights: dict[str, Any] = {"model.safetensors": {"w": torch.ones(3000)}, "raw.bin": bytes(9000)}
    write_directory(out / "model", KIND, {"name": "test"}, weights, "card", inputs / "log")
    read_directory(out / "model", KIND)


def run_json(inputs: Path, out: Path) -> None:
    from worldmodel.cli.data_commands import DataInfo

    save_run_info(out / "run.json", "data info", DataInfo(files=()), text="x" * 5000)
    load_run_info(out / "run.json")


WRITERS: dict[str, Callable[[Path, Path], None]] = {
    function.__name__: function
    for function in (new_part, appended_part, sealed, merged, converted, sheet, animation, model, run_json)
}


def try_limits(name: str, inputs: Path, out: Path) -> None:
    """Run a writer under limits from 0 bytes to more than it needs; run in a process of its own."""
    import resource

    write = WRITERS[name]
    write(inputs, out)
    largest = max(path.stat().st_size for path in out.rglob("*") if path.is_file())
    shutil.rmtree(out)
    failures = 0
    for limit in (0, 1, 100, 511, 600, *np.linspace(1000, largest + 1000, 8).astype(int).tolist()):
        out.mkdir()
        if name == "appended_part":
            shutil.copy(inputs / "p", out / "p")
        message = None
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            write(inputs, out)
        except UserError as error:
            message = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if message is not None:
            failures += 1
            assert "File too large" in message, message
            assert "\n" not in message, message
            left = set(names_in(out)) - {"p.lock"}
            if name == "appended_part":
                assert left == {"p"}
                assert len(list(read_part(out / "p"))) == 6
            else:
                assert left == set(), (limit, left)
            write(inputs, out)  # the same call continues
        shutil.rmtree(out)
    assert failures >= 5, failures
    print("ok")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    header = make_header(pixels=PIXELS)
    write_part(folder / "p", header, [make_episode(header, i, 5) for i in range(6)])
    make_file(folder, name="a.h5", pixels=PIXELS)
    make_file(folder, name="b.h5", pixels=PIXELS, seed=8)
    (folder / "npz").mkdir()
    for i in range(3):
        np.savez(folder / "npz" / f"{i}.npz", frames=np.full((6, 32, 32, 3), i, np.uint8))
    (folder / "log").mkdir()
    (folder / "log" / "events").write_bytes(bytes(2000))
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize("name", WRITERS)
def test_full_disk_gives_one_sentence_and_leaves_nothing(name: str, inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    command = [sys.executable, __file__, name, str(inputs), str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout == "ok\n"
    assert "Traceback" not in result.stderr


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_failing_fsync_and_rename_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def directory() -> None:
        with atomic_directory(tmp_path / "d") as fresh:
            (fresh / "new").write_text("new")

    def file() -> None:
        with atomic_path(tmp_path / "f") as temporary:
            temporary.write_text("new")

    write_json_atomic(tmp_path / "f", 1)
    directory()
    (tmp_path / "d" / "new").write_text("old")
    before = names_in(tmp_path)
    for target in ("os.fsync", "os.replace", "pathlib.Path.rename"):
        for write in (file, directory):
            if (write, target) in ((file, "pathlib.Path.rename"), (directory, "os.replace")):
                continue
            monkeypatch.setattr(target, full)
            with pytest.raises(UserError, match=r"cannot write '.*/[fd]': No space left on device. Free some space"):
                write()
            monkeypatch.undo()
            assert names_in(tmp_path) == before
            assert (tmp_path / "f").read_text() == "1\n"
            assert (tmp_path / "d" / "new").read_text() == "old"


def test_failed_rename_restores_the_old_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with atomic_directory(tmp_path / "d") as fresh:
        (fresh / "a").write_text("old")
    rename = Path.rename

    def second_fails(self: Path, target: Path) -> Path:
        if ".new-" in self.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(UserError, match="Input/output error"), atomic_directory(tmp_path / "d") as fresh:
        (fresh / "a").write_text("new")
    assert names_in(tmp_path) == ["d"]
    assert (tmp_path / "d" / "a").read_text() == "old"


def test_error_of_an_input_file_is_not_called_a_write_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "f") as temporary:
        temporary.write_bytes((tmp_path / "missing" / "input").read_bytes())
    assert names_in(tmp_path) == []


if __name__ == "__main__":
    try:
        try_limits(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
