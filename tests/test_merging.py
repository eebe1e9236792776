"""Merging sealed files."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import h5py
import pytest
from recordings import make_file

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec
from worldmodel.data import Dataset, PolicyRecord, merge
from worldmodel.data.verification import verify


def test_merged_files_read_as_one_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    ppo2 = (PolicyRecord("random"), PolicyRecord("ppo", "def456"))
    first, a = make_file(tmp_path / "sub", name="a.h5")
    second, b = make_file(tmp_path, name="b.h5", num=10, seed=8, policies=ppo2)
    merged = merge([first, second], tmp_path / "all.h5")
    again = merge([merged], tmp_path / "again.h5")  # a merged file is replaced by its sources
    report = verify(merged)
    assert (report.kind, report.num_episodes) == ("merged", 22)
    unchanged = {"random": "random"}
    for path in (merged, again, [first, second]):
        data = Dataset(path)
        got = list(data.episodes_iter())
        for episode, wanted in zip(got, a + b, strict=True):
            assert dataclasses.replace(episode, policy=wanted.policy) == wanted
        names = ["ppo@abc123"] * 12 + ["ppo@def456"] * 10
        assert data.policies.tolist() == [unchanged.get(e.policy, n) for e, n in zip(a + b, names, strict=True)]
        assert data.header.policy_names == ("random", "ppo@abc123", "ppo@def456")
        assert data.fingerprint == Dataset(merged).fingerprint
        assert [h.seed for h in data.headers] == [7, 8]
        assert pickle.loads(pickle.dumps(data)).num_steps == data.num_steps
    monkeypatch.chdir("/")  # paths are relative to the merged file, not to the working directory
    with h5py.File(merged) as file:
        assert file["frames"].is_virtual
        assert file["frames"][:].tobytes() == b"".join(e.frames.tobytes() for e in a + b)
        offsets = file["episodes/step_offset"][:]
        assert file["rewards"][offsets[12]] == b[0].rewards[0]

    for at in range(0, merged.stat().st_size, 331):
        data_bytes = bytearray(merged.read_bytes())
        data_bytes[at] ^= 1
        (tmp_path / "flip.h5").write_bytes(data_bytes)
        with pytest.raises(UserError):
            verify(tmp_path / "flip.h5")


def test_merge_refuses_files_that_do_not_fit(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path)
    other, _ = make_file(tmp_path, name="b.h5", seed=8)
    merged = merge([path, other], tmp_path / "m.h5")
    for field, value in {
        "env": "Other-v0",
        "pixels": PixelSpec((6, 4)),
        "action_space": spaces.Discrete(4),
        "variables": ("health",),
        "frame_skip": 2,
    }.items():
        wrong, _ = make_file(tmp_path, name="c.h5", **{field: value})
        with pytest.raises(UserError, match=f"cannot be read as one dataset: {field} is"):
            merge([path, wrong], tmp_path / "x.h5")
        with pytest.raises(UserError, match=f"{field} is"):
            Dataset([path, wrong])
    part_again, _ = make_file(tmp_path, name="d.h5", num=3)
    with pytest.raises(UserError, match=r"episode 0 of seed 7 is in '.*a.h5' and again in '.*d.h5'"):
        merge([path, part_again], tmp_path / "x.h5")
    with pytest.raises(UserError, match="again in"):
        Dataset([path, path])
    with pytest.raises(UserError, match="at least one sealed file"):
        merge([], tmp_path / "x.h5")
    with pytest.raises(UserError, match="one of the files to merge"):
        merge([path], path)
    assert not (tmp_path / "x.h5").exists()

    make_file(tmp_path, name="b.h5", seed=9)
    for function in (Dataset, verify):
        with pytest.raises(UserError, match=r"b.h5' has changed since it was merged into '.*m.h5'"):
            function(merged)
    other.unlink()
    for function in (Dataset, verify):
        with pytest.raises(UserError, match=r"b.h5', a source of the merged file .*, is missing"):
            function(merged)
