"""Sealing part files into one dataset file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from recordings import make_episode, make_header, names_in, write_part

from worldmodel.common import files as data_files
from worldmodel.common.errors import UserError
from worldmodel.data import Dataset, seal
from worldmodel.data.verification import verify


def test_seal_refuses_wrong_parts_in_one_sentence(tmp_path: Path) -> None:
    header = make_header()
    part = write_part(tmp_path / "p", header, [make_episode(header, i) for i in (0, 2)])
    same = write_part(tmp_path / "same", header, [make_episode(header, 2), make_episode(header, 1)])
    other = write_part(tmp_path / "other", header, [make_episode(header, 2, 4)])
    foreign = write_part(tmp_path / "foreign", make_header(seed=8), [make_episode(header, 3)])
    out = tmp_path / "out.h5"
    for arguments, sentence in [
        ({"parts": [part], "indices": range(4)}, r"2 of 4 episodes are missing \(1, 3\)"),
        ({"parts": [part], "indices": [0]}, "were not requested for .*: 2"),
        ({"parts": [part, other]}, "episode 2 differs between"),
        ({"parts": [part, foreign]}, "different runs: seed is 7"),
        ({"parts": [foreign], "header": header}, "another run than the given header: seed"),
        ({"parts": []}, "at least one part file"),
        ({"parts": [part, out]}, "is one of the parts"),
    ]:
        with pytest.raises(UserError, match=sentence):
            seal(arguments.pop("parts"), out, **arguments)
    parts = ["foreign", "other", "p", "same"]
    assert names_in(tmp_path) == sorted([*parts, *(f"{name}.lock" for name in parts)])
    seal([part, same], out, indices=range(3))
    assert Dataset(out).indices.tolist() == [0, 1, 2]
    assert verify(out).missing == tuple(range(3, 12))


def test_shards_are_sealed_with_a_common_header(tmp_path: Path) -> None:
    parts = []
    for i in range(2):
        header = make_header(shard=(i, 2), num_episodes=4)
        parts.append(write_part(tmp_path / f"p{i}", header, [make_episode(header, e) for e in header.indices]))
    with pytest.raises(UserError, match="shard is"):
        seal(parts, tmp_path / "a.h5")
    whole = make_header(num_episodes=4)
    assert verify(seal(parts, tmp_path / "a.h5", header=whole, indices=whole.indices)).missing == ()


def test_seal_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = make_header()
    part = write_part(tmp_path / "p", header, [make_episode(header, i) for i in range(3)])
    out = tmp_path / "out.h5"
    out.write_bytes(b"older")

    usage = os.statvfs(tmp_path)
    monkeypatch.setattr(data_files.shutil, "disk_usage", lambda _: type("U", (), {"free": 10_000})())
    with pytest.raises(UserError, match=r"sealing '.*out.h5' needs .* kB, but '.*' has 10.0 kB free"):
        seal([part], out)
    monkeypatch.undo()
    assert usage

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for function in (
        "worldmodel.data.sealing.write_user_block",
        "worldmodel.data.hdf5_writing.ArrayWriter.write",
        "h5py.Dataset.__setitem__",
    ):
        monkeypatch.setattr(function, full)
        with pytest.raises(UserError, match=r"could not be written.*The parts are unchanged"):
            seal([part], out, remove_parts=True)
        monkeypatch.undo()
    monkeypatch.setattr(data_files.os, "replace", full)
    with pytest.raises(UserError, match=r"cannot write .*No space.* Free some space"):
        seal([part], out, remove_parts=True)
    monkeypatch.undo()
    assert out.read_bytes() == b"older"

    damaged = bytearray(part.read_bytes())
    damaged[-60] ^= 1  # the last record of a part
    part.write_bytes(damaged)
    with pytest.raises(UserError, match="record 2"):
        seal([part], out, remove_parts=True)
    assert names_in(tmp_path) == ["out.h5", "p", "p.lock"]
    assert out.read_bytes() == b"older"
