"""Folders of videos: official lists, resizing, real H.264; videos with a CSV file of actions."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from import_sources import some_frames, write_gif, write_video_csv

from worldmodel.common import spaces
from worldmodel.common.assets import find_asset
from worldmodel.common.errors import UserError
from worldmodel.data import Dataset
from worldmodel.data.importers import ImportOptions, convert, video_importer
from worldmodel.data.importers.frame_conversion import fit_frame


def write_ucf(folder: Path) -> tuple[Path, Path]:
    """Class folders and the two lists of UCF-101: train lines end in the number of the class."""
    for i, name in enumerate(("Archery/v_g01_c01", "Archery/v_g08_c01", "Biking/v_g02_c01", "Biking/v_g09_c01")):
        write_gif(folder / f"{name}.gif", some_frames(i))
    lists = folder.parent / "trainlist01.txt", folder.parent / "testlist01.txt"
    lists[0].write_text("Archery/v_g08_c01.gif 1\nBiking/v_g09_c01.gif 2\n\n")
    lists[1].write_text("Archery/v_g01_c01.gif\r\n")
    return lists


def test_official_lists_give_splits_and_choose_videos(tmp_path: Path) -> None:
    lists = write_ucf(tmp_path / "UCF-101")
    with Dataset(convert(None, tmp_path / "UCF-101", tmp_path / "a.h5", ImportOptions(split_files=lists))) as data:
        assert data.splits.tolist() == ["test", "train", "train"]
        assert data.class_names == ("Archery", "Biking")
        assert data.labels.tolist() == [0, 0, 1]
        assert [data.frames(i).tobytes() for i in range(3)] == [some_frames(i).tobytes() for i in (0, 1, 3)]


def test_wrong_lists_are_refused_by_line(tmp_path: Path) -> None:
    train, test = write_ucf(tmp_path / "s")

    def refused(sentence: str, *lists: Path) -> None:
        with pytest.raises(UserError, match=sentence):
            convert("video", tmp_path / "s", tmp_path / "a.h5", ImportOptions(split_files=lists))

    refused(r"other\.txt': the name of a list must begin with train, val or test", tmp_path / "other.txt")
    refused(r"test2\.txt' cannot be read as a list", tmp_path / "test2.txt")
    test.write_text("Archery/v_g08_c01.gif\n")
    refused(r"testlist01\.txt', line 1: .* is in the train list too", train, test)
    train.write_text("Archery/v_g08_c01.gif 1\nArchery/none.gif 1\n")
    refused(r"trainlist01\.txt', line 2: .*none\.gif' does not exist", train, test)
    train.write_text("\n")
    refused(r"trainlist01\.txt' lists no videos", train)
    (tmp_path / "s" / "notes.txt").write_text("no video")
    train.write_text("Archery/v_g08_c01.gif\nnotes.txt\n")
    refused(r"notes\.txt' is in a list of videos and is none of the videos below", train)


def test_lists_may_have_absolute_paths_and_paths_that_lead_up(tmp_path: Path) -> None:
    train, test = write_ucf(tmp_path / "s")
    train.write_text(f"{tmp_path}/s/Archery/v_g08_c01.gif 1\nArchery/../Biking/v_g09_c01.gif 2\n")
    with Dataset(convert("video", tmp_path / "s", tmp_path / "a.h5", ImportOptions(split_files=(train, test)))) as data:
        assert data.splits.tolist() == ["test", "train", "train"]


def test_a_video_outside_of_the_folders_of_the_splits_is_refused(tmp_path: Path) -> None:
    for i, name in enumerate(("train/a", "test/b", "demo")):
        write_gif(tmp_path / "s" / f"{name}.gif", some_frames(i, 2))
    with pytest.raises(UserError, match=r"demo\.gif' is in no folder called train, .* wanted all or none"):
        convert("video", tmp_path / "s", tmp_path / "a.h5")
    with Dataset(convert("video", tmp_path / "s", tmp_path / "a.h5", ImportOptions(ignore_splits=True))) as data:
        assert data.header.split_rule == "hash"


def test_a_tenth_of_the_train_videos_is_for_validation(tmp_path: Path) -> None:
    for i in range(11):
        write_gif(tmp_path / "s" / ("test" if i == 10 else "train") / f"{i}.gif", some_frames(i, 2))
    with Dataset(convert("video", tmp_path / "s", tmp_path / "a.h5")) as data:
        assert data.split_counts == {"train": 9, "validation": 1, "test": 1}


def test_the_short_side_is_scaled_and_the_centre_kept() -> None:
    frame = np.zeros((8, 16, 3), np.uint8)
    frame[:, 4:12] = 200  # the centre square
    assert (fit_frame(frame, (4, 4), "crop") == 200).all()
    assert fit_frame(frame, (4, 4), "stretch")[0, :, 0].tolist() == [0, 200, 200, 0]
    assert (fit_frame(frame.transpose(1, 0, 2), (4, 4), "crop") == 200).all()
    assert fit_frame(frame, (4, 8), "crop")[0, :, 0].tolist() == [0, 0, 200, 200, 200, 200, 0, 0]
    assert fit_frame(frame[:3, :5], (9, 9), "crop").shape == (9, 9, 3)


def test_long_videos_are_cut_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gif(tmp_path / "s" / "a.gif", some_frames(0, 6))
    with Dataset(convert("video", tmp_path / "s", tmp_path / "a.h5", ImportOptions(num_frames=3))) as data:
        assert data.frames(0).tobytes() == some_frames(0, 6)[:3].tobytes()
    monkeypatch.setattr(video_importer, "MAX_BYTES", 500)
    with pytest.raises(UserError, match=r"a\.gif' has more than 500 B of frames.*give a smaller --size"):
        convert("video", tmp_path / "s", tmp_path / "b.h5")


@pytest.mark.parametrize("suffix", ["avi", "webm"])
def test_other_containers(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("av")
    codec = {"avi": "mpeg4", "webm": "libvpx-vp9"}[suffix]
    frames = np.repeat(np.arange(0, 250, 50, dtype=np.uint8), 32 * 48 * 3).reshape(5, 32, 48, 3)
    (tmp_path / "s").mkdir()
    iio.imwrite(tmp_path / "s" / f"a.{suffix}", frames, plugin="pyav", codec=codec, fps=10)
    with Dataset(convert(None, tmp_path / "s", tmp_path / "a.h5")) as data:
        assert data.num_frames == 5
        assert np.abs(data.frames(0).astype(int) - frames).max() < 10


@pytest.mark.slow
def test_a_real_h264_video(tmp_path: Path) -> None:
    pytest.importorskip("av")
    try:
        video = find_asset("video-bikes")
    except UserError as error:
        pytest.skip(f"offline: {error}")
    (tmp_path / "s" / "street").mkdir(parents=True)
    shutil.copy(video, tmp_path / "s" / "street" / "bikes.mp4")
    with Dataset(convert(None, tmp_path / "s", tmp_path / "a.h5", ImportOptions(size=(64, 64), num_frames=40))) as data:
        frames = data.frames(0)
        assert frames.shape == (40, 64, 64, 3)
        assert frames.std() > 20
        assert (frames[1:] != frames[:-1]).any(axis=(1, 2, 3)).all(), "it moves"


def test_csv_files_of_integers_numbers_and_words(tmp_path: Path) -> None:
    cases: dict[str, tuple[str, spaces.Space, list]] = {
        "int": ("action\n0\n2\n1\n", spaces.Discrete(3), [0, 2, 1]),
        "ints": ("action_x,action_y\n0,1\n1,0\n0,0\n", spaces.MultiDiscrete((2, 2)), [[0, 1], [1, 0], [0, 0]]),
        "float": ("frame,action_0,action_1\n0,0.5,1\n1,-1,2\n2,0,0\n", spaces.Box((None,) * 2, (None,) * 2), []),
        "words": ("action, reward\nleft,0\nright,1\nleft,0\n", spaces.Discrete(2), [0, 1, 0]),
    }
    for name, (text, space, actions) in cases.items():
        write_video_csv(tmp_path / name, "run", text)
        with Dataset(convert(None, tmp_path / name, tmp_path / f"{name}.h5")) as data:
            assert data.header.action_space == space
            episode = data.episode(0)
            assert not actions or episode.actions.tolist() == actions
            if name == "words":
                assert data.header.action_labels == ("left", "right")
                assert episode.rewards.tolist() == [0, 1, 0]
            if name == "float":
                assert episode.actions.tolist() == [[0.5, 1], [-1, 2], [0, 0]]


@pytest.mark.filterwarnings("ignore:--drop-action last")
def test_as_many_rows_as_frames_and_ends(tmp_path: Path) -> None:
    rows = "action,reward,terminated,truncated\n0,5,0,0\n1,6,0,0\n2,7,0,false\n3,8,1,TRUE\n"
    write_video_csv(tmp_path / "s", "run", rows)
    with pytest.raises(UserError, match=r"run\.csv' has 4 rows for 4 frames, one too many\. Give --drop-action last"):
        convert(None, tmp_path / "s", tmp_path / "a.h5")
    for drop, actions in (("first", [1, 2, 3]), ("last", [0, 1, 2])):
        options = ImportOptions(drop_action=drop)  # type: ignore[arg-type]
        with Dataset(convert(None, tmp_path / "s", tmp_path / f"{drop}.h5", options)) as data:
            episode = data.episode(0)
            assert episode.actions.tolist() == actions
            assert episode.rewards.tolist() == [5 + action for action in actions]
            assert episode.terminations[-1] == episode.truncations[-1] == (drop == "first")


def test_ends_that_are_left_out_with_the_last_row_are_reported(tmp_path: Path) -> None:
    options = ImportOptions(drop_action="last")
    write_video_csv(tmp_path / "s", "run", "action,terminated\n0,0\n1,0\n2,0\n3,1\n")
    with pytest.warns(UserWarning, match="an episode ends in its last row, which is left out"):
        convert(None, tmp_path / "s", tmp_path / "a.h5", options)
    write_video_csv(tmp_path / "s", "run", "action,terminated\n0,0\n1,0\n2,1\n3,0\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert(None, tmp_path / "s", tmp_path / "a.h5", options)


def test_csv_files_of_spreadsheets(tmp_path: Path) -> None:
    """Excel writes a byte order mark, and semicolons in many countries."""
    write_video_csv(tmp_path / "s", "run", "\ufeffaction\n0\n1\n2\n")
    with Dataset(convert(None, tmp_path / "s", tmp_path / "a.h5")) as data:
        assert data.episode(0).actions.tolist() == [0, 1, 2]
    write_video_csv(tmp_path / "s", "run", "action;reward\n0;1\n1;1\n2;1\n")
    with pytest.raises(UserError, match="is not separated by commas"):
        convert(None, tmp_path / "s", tmp_path / "b.h5")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("acton\n1\n1\n1\n", r"first row: unknown column 'acton'\. Did you mean 'action'"),
        ("0\n1\n1\n", "first row: unknown column '0'"),
        ("reward\n1\n1\n1\n", r"has the columns \['reward'\] and 3 rows; wanted action"),
        ("action\n", r"has the columns \['action'\] and 0 rows"),
        ("", r"has the columns \[\] and 0 rows"),
        ("action,reward\n1,1\n1\n1,1\n", "row 2 has 1 values; wanted 2: action, reward"),
        ("action,reward\n1,1\n1,x\n1,1\n", "a reward is no number: .*'x'"),
        ("action,terminated\n1,0\n1,2\n1,0\n", "row 2: terminated is '2'; wanted 0 or 1"),
        ("frame,action\n0,1\n2,1\n3,1\n", "row 2: frame is '2'; wanted 1"),
        ("action\n0\n-1\n0\n", "actions have -1; wanted integers counted from 0"),
        ("action\n0\n1\n", r"has shape \(2,\) int64; wanted 3 rows, one for each step between 4 frames"),
        ("action\nup\n1\n1\n", "one has words, one numbers"),
        ("action_a,action_b\n0,0\n1,1\n1,1\n", "has 2 action columns; wanted 1"),
        (None, "cannot be read as CSV: .*wanted one for each video"),
    ],
)
def test_wrong_csv_files_are_refused_by_name(tmp_path: Path, text: str | None, sentence: str) -> None:
    write_video_csv(tmp_path / "s", "a", "action\n0\n1\n2\n")
    write_video_csv(tmp_path / "s", "b", text or "")
    if text is None:
        (tmp_path / "s" / "b.csv").unlink()
    with pytest.raises(UserError, match=rf"b\.csv'.*{sentence}"):
        convert("video-csv", tmp_path / "s", tmp_path / "a.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
