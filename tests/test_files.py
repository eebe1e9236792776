"""Atomic writing of files and directories: content, permissions, home directories."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from recordings import make_episode, make_header, names_in, write_part

from worldmodel.cli.data_commands import DataInfo
from worldmodel.common.directories import DirectoryKind, load_matching_weights, read_directory, write_directory
from worldmodel.common.errors import UserError
from worldmodel.common.files import (
    atomic_path,
    check_free_space,
    expand_path,
    write_bytes_atomic,
    write_json_atomic,
    write_text_atomic,
)
from worldmodel.common.run_info import check_same_run, load_run_info, remove_run, save_run_info
from worldmodel.common.tensor_files import save_tensors
from worldmodel.data import (
    Dataset,
    PartWriter,
    contact_sheet,
    gif,
    merge,
    read_part,
    read_part_header,
    seal,
    verify,
)

KIND = DirectoryKind("model", "test.model", 1, ("model.safetensors", "raw.bin"), "test")


def write_model(out: Path) -> None:
    import torch

    weights: dict[str, Any] = {"model.safetensors": {"w": torch.ones(3)}, "raw.bin": b"raw"}
    write_directory(out, KIND, {"field": 1}, weights, "card", None)


def test_free_space_and_atomic_path(tmp_path: Path) -> None:
    check_free_space(tmp_path / "not" / "yet", 1, "this")
    with pytest.raises(UserError, match=r"this needs 1000000.0 TB"):
        check_free_space(tmp_path / "not" / "yet", 10**18, "this")
    with atomic_path(tmp_path / "new" / "a.txt") as temporary:
        temporary.write_text("a")
        assert not (tmp_path / "new" / "a.txt").exists()

    def interrupted() -> None:
        with atomic_path(tmp_path / "new" / "a.txt") as temporary:
            temporary.write_text("b")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "new" / "a.txt").read_text() == "a"
    assert names_in(tmp_path / "new") == ["a.txt"]
    with pytest.raises(UserError, match="is a folder"), atomic_path(tmp_path):
        pass
    with pytest.raises(UserError, match="cannot write"), atomic_path(tmp_path / "new" / "a.txt" / "b"):
        pass


def test_text_bytes_and_json_are_written_atomically(tmp_path: Path) -> None:
    assert write_text_atomic(tmp_path / "a" / "t", "ä\n").read_bytes() == b"\xc3\xa4\n"
    assert write_bytes_atomic(tmp_path / "a" / "b", b"\x00").read_bytes() == b"\x00"
    assert json.loads(write_json_atomic(tmp_path / "a" / "j", {"x": [1]}).read_text()) == {"x": [1]}
    with pytest.raises(TypeError):
        write_json_atomic(tmp_path / "a" / "j", object())
    assert names_in(tmp_path / "a") == ["b", "j", "t"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_written_files_have_the_permissions_of_the_umask(tmp_path: Path, umask: int) -> None:
    import torch

    before = os.umask(umask)
    try:
        header = make_header()
        part = write_part(tmp_path / "p", header, [make_episode(header, i) for i in range(2)])
        path = seal([part], tmp_path / "a.h5")
        merge([path], tmp_path / "m.h5")
        contact_sheet(Dataset(path), tmp_path / "sheet.png")
        gif(Dataset(path), tmp_path / "a.gif")
        save_run_info(tmp_path / "run.json", "data info", DataInfo(files=()))
        save_tensors(tmp_path / "w.safetensors", {"w": torch.ones(3)}, {"facts": "1"})
        save_tensors(tmp_path / "w.safetensors", {"w": torch.ones(4)})  # replaced
        write_model(tmp_path / "model")
        with atomic_path(tmp_path / "private") as temporary:
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))  # a writer that replaces the file
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert {"model.safetensors", "raw.bin", "config.json", "README.md", "private"} < {path.name for path in files}
    modes = {str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode) for path in files}
    wrong = {name: oct(mode) for name, mode in modes.items() if mode != 0o666 & ~umask}
    assert not wrong
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o777 & ~umask


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    assert expand_path("~/x") == tmp_path / "home" / "x"
    assert expand_path(Path("~")) == tmp_path / "home"
    assert expand_path("a/~/x") == Path("a/~/x")
    header = make_header()
    with PartWriter("~/p", header) as writer:
        writer.append(make_episode(header, 0))
    assert len(list(read_part("~/p"))) == 1
    assert read_part_header("~/p") == header
    assert seal(["~/p"], "~/a.h5", remove_parts=True) == tmp_path / "home" / "a.h5"
    assert merge(["~/a.h5"], Path("~/m.h5")) == tmp_path / "home" / "m.h5"
    verify("~/m.h5")
    data = Dataset("~/m.h5")
    assert len(data) == len(Dataset(["~/a.h5"])) == 1
    assert contact_sheet(data, "~/new/s.png") == tmp_path / "home" / "new" / "s.png"
    assert gif(data, "~/s.gif") == tmp_path / "home" / "s.gif"
    config = DataInfo(files=())
    save_run_info(Path("~/run/run.json"), "data info", config)
    assert load_run_info(Path("~/run/run.json"))["verb"] == "data info"
    with pytest.raises(UserError, match="holds another run"):
        check_same_run(Path("~/run/run.json"), Path("~/run"), DataInfo(files=(Path("x"),)))
    remove_run(Path("~/run"))
    write_model(Path("~/model"))
    write_model(Path("~/model"))
    assert read_directory(Path("~/model"), KIND)["field"] == 1
    check_free_space("~/x", 1, "this")
    assert names_in(tmp_path / "work") == []
    assert names_in(tmp_path / "home") == ["a.h5", "m.h5", "model", "new", "s.gif"]


def test_a_directory_is_replaced_only_by_its_own_kind(tmp_path: Path) -> None:
    out = tmp_path / "model"
    out.mkdir()
    write_model(out)  # an empty folder may be replaced
    write_model(out)
    assert names_in(tmp_path) == ["model"]
    (out / "config.json").write_text('{"format": "other"}')
    with pytest.raises(UserError, match="exists and is not a model directory; choose another path or remove it"):
        write_model(out)
    with pytest.raises(UserError, match=r"is not a model directory: its config.json describes something else"):
        read_directory(out, KIND)
    with pytest.raises(UserError, match=r"there is no model directory .*; give the path of one that `test` wrote"):
        read_directory(tmp_path / "none", KIND)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda out: (out / "raw.bin").write_bytes(b"rax"), "raw.bin is damaged or belongs to another model"),
        (lambda out: (out / "raw.bin").unlink(), "has no raw.bin: the copy is incomplete"),
        (lambda out: (out / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda out: (out / "config.json").unlink(), "it has no config.json"),
        (
            lambda out: (out / "config.json").write_text('{"format": "test.model", "version": 2}'),
            "is a model of format version 2; this code reads version 1",
        ),
    ],
)
def test_a_damaged_directory_is_refused(tmp_path: Path, change: Any, sentence: str) -> None:
    write_model(tmp_path / "model")
    change(tmp_path / "model")
    with pytest.raises(UserError, match=sentence):
        read_directory(tmp_path / "model", KIND)


def test_weights_must_match_the_module() -> None:
    import torch

    module = torch.nn.Linear(2, 3)
    for weights, sentence in [
        ({"weight": torch.zeros(3, 2)}, "w do not fit: bias is missing, wanted of shape \\(3,\\). Do this"),
        ({"weight": torch.zeros(3, 1), "bias": torch.zeros(3)}, "weight is of shape \\(3, 1\\), wanted of shape"),
        ({**module.state_dict(), "more": torch.zeros(1)}, "more is of shape \\(1,\\), wanted none"),
    ]:
        with pytest.raises(UserError, match=sentence):
            load_matching_weights(module, weights, "w", "Do this.")
