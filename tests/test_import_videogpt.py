"""The HDF5 layout of VideoGPT's public code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from import_sources import some_frames, write_videogpt

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.data import Dataset
from worldmodel.data.importers import ImportOptions, convert
from worldmodel.data.splits import split_of


def test_every_frame_of_every_video_is_read(tmp_path: Path) -> None:
    write_videogpt(tmp_path / "bair.hdf5", 11, 3)
    with Dataset(convert(None, tmp_path / "bair.hdf5", tmp_path / "a.h5", ImportOptions(seed=1))) as data:
        assert data.header.action_space == spaces.NoAction()
        assert data.num_episodes == 14
        for i in range(14):
            assert data.frames(i).tobytes() == some_frames(i, 2 + i % 3).tobytes(), i
        train = ["validation" if split_of(1, i) == "validation" else "train" for i in range(11)]
        assert data.splits.tolist() == [*train, "test", "test", "test"]


@pytest.mark.parametrize(
    ("datasets", "sentence"),
    [
        ({"train_data": np.zeros((9, 8, 6), np.uint8)}, r"train_data has shape \(9, 8, 6\) uint8; wanted"),
        ({"test_data": np.zeros((9, 8, 6, 3))}, r"test_data has shape \(9, 8, 6, 3\) float64; wanted"),
        ({"train_idx": np.zeros(3)}, r"train_idx has shape \(3,\) float64; wanted \(videos,\) integers"),
        ({"train_idx": np.array([0, 5, 4])}, r"train_idx\[1\] is 5, and the next video begins at 4 of 9 frames"),
        ({"train_idx": np.array([1, 4])}, r"train_idx\[0\] is 1"),
        ({"train_idx": np.array([0, 8])}, r"train_idx\[1\] is 8, and the next video begins at 9 of 9 frames"),
        ({"test_idx": np.array([0, 99])}, r"test_idx\[1\] is 99"),
        ({"test_idx": np.zeros(0, int)}, r"test_idx\[0\]"),
        ({"test_data": np.zeros((5, 8, 7, 3), np.uint8)}, "train_data has shape .*; wanted one size"),
    ],
)
def test_other_layouts_are_refused_by_name(tmp_path: Path, datasets: dict[str, Any], sentence: str) -> None:
    write_videogpt(tmp_path / "s.hdf5", **datasets)
    with pytest.raises(UserError, match=rf"s\.hdf5': {sentence}"):
        convert("videogpt-hdf5", tmp_path / "s.hdf5", tmp_path / "a.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["s.hdf5"]


def test_missing_datasets_are_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "s.hdf5", "w") as file:
        file["train_data"] = np.zeros((4, 8, 6, 3), np.uint8)
    with pytest.raises(UserError, match=r"s\.hdf5' has \['train_data'\]; wanted the dataset 'train_idx' too"):
        convert("videogpt-hdf5", tmp_path / "s.hdf5", tmp_path / "a.h5")
