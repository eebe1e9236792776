"""RoboNet's HDF5 files: frames as MP4, JPEG or raw, actions of several robots."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from import_sources import write_robonet

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.data import Dataset
from worldmodel.data.importers import ImportOptions, convert


@pytest.mark.parametrize("encoding", ["raw", "bgr", "jpg", "mp4"])
def test_every_encoding_of_frames(tmp_path: Path, encoding: str) -> None:
    if encoding == "mp4":
        pytest.importorskip("av")
    write_robonet(tmp_path / "hdf5" / "sawyer_traj0.hdf5", 3, encoding)
    with Dataset(convert(None, tmp_path / "hdf5", tmp_path / "a.h5", ImportOptions(camera="1"))) as data:
        episode = data.episode(0)
        assert episode.frames.shape == (5, 16, 16, 3)
        assert np.abs(episode.frames.astype(int) - (200, 40, 30)).max() < 6
        assert episode.actions.tolist() == [[4 * t + a for a in range(4)] for t in range(4)]
        assert (data.class_names, episode.label, data.header.split_rule) == (("sawyer",), 0, "hash")


def test_actions_of_robots_with_fewer_numbers_are_padded(tmp_path: Path) -> None:
    write_robonet(tmp_path / "s" / "a.hdf5", 0, action_dim=4)
    write_robonet(tmp_path / "s" / "b.hdf5", 0, action_dim=5, robot="kuka")
    with pytest.raises(UserError, match=r"b\.hdf5': policy/actions has 5 numbers .* wanted 4\. Give --action-dim 5"):
        convert("robonet", tmp_path / "s", tmp_path / "a.h5")
    with Dataset(convert("robonet", tmp_path / "s", tmp_path / "a.h5", ImportOptions(action_dim=5))) as data:
        assert data.header.action_space == spaces.Box((None,) * 5, (None,) * 5)
        assert data.episode(0).actions[:, 3:].tolist() == [[4 * t + 3, 0] for t in range(4)]
        assert [data.class_names[label] for label in data.labels] == ["sawyer", "kuka"]


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s" / "a.hdf5"
    write_robonet(path, 0)

    def refused(sentence: str, options: ImportOptions | None = None) -> None:
        with pytest.raises(UserError, match=sentence):
            convert("robonet", tmp_path / "s", tmp_path / "a.h5", options)

    refused(r"a\.hdf5' has no env/cam2_video, but cam0_video, cam1_video, state", ImportOptions(camera="2"))
    refused("camera='left'; wanted its number", ImportOptions(camera="left"))
    with h5py.File(path, "a") as file:
        del file["env/cam0_video/frames"]
    refused(r"a\.hdf5': env/cam0_video cannot be read: it has no frame0 but \[\], wanted frames, or frame0")
    with h5py.File(path, "a") as file:
        file["env/cam0_video/frame0"] = file["env/cam0_video/frame2"] = np.zeros(9, np.uint8)
    refused(r"a\.hdf5': env/cam0_video cannot be read: it has no frame1 but \['frame0', 'frame2'\]")
    with h5py.File(path, "a") as file:
        file.create_group("env/cam0_video/frames")
    refused("cannot be read: frames is a group, wanted an array")
    with h5py.File(path, "a") as file:
        del file["env/cam0_video/frames"]
        file["env/cam0_video/frames"] = np.arange(100, dtype=np.uint8)
    refused(r"a\.hdf5': env/cam0_video cannot be read")
    with h5py.File(path, "a") as file:
        del file["policy"]
    refused(r"a\.hdf5' has no policy/actions")
    assert not (tmp_path / "a.h5").exists()
