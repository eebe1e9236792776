"""Importers: every row of the registry passes the same contract; wrong input is one sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from import_sources import SOURCES, some_frames, write_gif

from worldmodel.cli import command_line as cli
from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.data import Dataset
from worldmodel.data.importers import IMPORTERS, ImportOptions, convert
from worldmodel.data.importers.array_frames import frames_from_array
from worldmodel.data.importers.imported_dataset import source_files
from worldmodel.data.importers.importer_registry import detect_format
from worldmodel.data.verification import verify


def write_npz(path: Path, seed: int, split: str | None, label: str | None, /, **arrays: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    extra = {name: np.asarray(x) for name, x in {"split": split, "label": label}.items() if x is not None}
    np.savez(path, **({"frames": some_frames(seed)} | extra | arrays))


def write_npz_source(folder: Path, rows: list[tuple[str | None, str | None]]) -> None:
    for i, (split, label) in enumerate(rows):
        write_npz(folder / f"{i}.npz", i, split, label)


def write_videos(folder: Path, rows: list[tuple[str | None, str | None]]) -> None:
    for i, (split, label) in enumerate(rows):
        path = folder.joinpath(*(name for name in (split, label) if name), f"{i}.gif")
        path.parent.mkdir(parents=True, exist_ok=True)
        iio.imwrite(path, some_frames(i), plugin="pillow", duration=100, loop=0)


# Formats whose sources may have splits and labels.
WRITERS: dict[str, Callable[[Path, list[tuple[str | None, str | None]]], None]] = {
    "npz": write_npz_source,
    "video": write_videos,
}


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("format", WRITERS)
def test_splits_and_labels_round_trip(tmp_path: Path, format: str, given: bool, labelled: bool) -> None:
    splits = ["test", "train", "train", "valid"] if given else [None] * 4
    labels = ["b", "a", "b", "b"] if labelled else [None] * 4
    rows = list(zip(splits, labels, strict=True))
    WRITERS[format](tmp_path / "source", rows)
    path = convert(format, tmp_path / "source", tmp_path / "new" / "a.h5", ImportOptions(seed=5))
    assert verify(path).num_episodes == 4
    with Dataset(path) as data:
        header = data.header
        assert (header.env, header.seed, header.policy_names) == (f"imported/{format}", 5, ("imported",))
        assert header.action_space == spaces.NoAction()
        assert header.split_rule == ("given" if given else "hash")
        assert data.class_names == (("a", "b") if labelled else ())
        found = {data.frames(number).tobytes(): number for number in range(4)}
        for i, (split, label) in enumerate(rows):
            number = found[some_frames(i).tobytes()]
            assert data.labels[number] == (-1 if label is None else ("a", "b").index(label))
            if given:
                assert data.splits[number] == ("validation" if split == "valid" else split)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.h5"]
    resized = convert(format, tmp_path / "source", tmp_path / "small.h5", ImportOptions(env="mine", size=(4, 3)))
    with Dataset(resized) as data:
        assert data.frames(0).shape == (4, 4, 3, 3)
        assert data.header.env == "mine"


@pytest.mark.parametrize("format", IMPORTERS)
def test_every_importer_reads_its_layout(tmp_path: Path, format: str) -> None:
    source = SOURCES[format](tmp_path / "source")
    assert detect_format(source) == format
    first = convert(None, source, tmp_path / "a.h5", ImportOptions(seed=5, env="mine"))
    assert verify(first).num_episodes > 1
    second = convert(format, source, tmp_path / "b.h5", ImportOptions(seed=5, env="mine"))
    assert first.read_bytes() == second.read_bytes(), "the same source gives the same file"
    resized = convert(format, source, tmp_path / "c.h5", ImportOptions(size=(4, 3), ignore_splits=True))
    with Dataset(first) as data, Dataset(resized) as small:
        assert data.header.env == "mine"
        assert small.header.env == f"imported/{format}"
        assert small.header.split_rule == "hash"
        assert small.frames(0).shape == (len(data.frames(0)), 4, 3, 3)
        assert [data.episode(i).length for i in range(2)] == data.lengths[:2].tolist()
    assert {path.name for path in tmp_path.iterdir()} == {"a.h5", "b.h5", "c.h5", source.name}


@pytest.mark.parametrize("format", IMPORTERS)
def test_every_importer_refuses_wrong_sources(tmp_path: Path, format: str) -> None:
    for name in (format, None):
        with pytest.raises(UserError, match=r"none' (is not a folder|does not exist)"):
            convert(name, tmp_path / "none", tmp_path / "a.h5")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty' (has no .*; wanted files that end in|is a folder; wanted)"):
        convert(format, tmp_path / "empty", tmp_path / "a.h5")
    with pytest.raises(UserError, match="empty' has no files of a known format; choose one with --from: npz, video"):
        convert(None, tmp_path / "empty", tmp_path / "a.h5")
    source = SOURCES[format](tmp_path / "source")
    for damaged in [source] if source.is_file() else source_files(source, IMPORTERS[format].folder[0], "files"):
        damaged.write_bytes(damaged.read_bytes()[:50])
    with pytest.raises(UserError, match=rf"'{source}.*(cannot be read|has no frames|is cut off)"):
        convert(format, source, tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize("format", IMPORTERS)
def test_options_that_a_format_does_not_use_are_refused(tmp_path: Path, format: str) -> None:
    values = {"frame_skip": 2, "camera": "x", "num_frames": 3, "num_sequences": 1, "drop_action": "last"}
    for name, value in values.items():
        if name not in IMPORTERS[format].options:
            with pytest.raises(UserError, match=f"{name}={value!r} does not apply to the format {format!r}"):
                convert(format, tmp_path, tmp_path / "a.h5", ImportOptions(**{name: value}))
    known = {field.name for field in dataclasses.fields(ImportOptions)}
    assert set(IMPORTERS[format].options) <= known


@pytest.mark.parametrize(
    ("actions", "space"),
    [
        (np.array([0, 2, 1]), spaces.Discrete(3)),
        (np.array([0, 1, 1], np.uint8), spaces.Discrete(2)),
        (np.array([[0, 1], [2, 0], [0, 0]]), spaces.MultiDiscrete((3, 2))),
        (np.array([[0.5], [1e9], [-2.0]]), spaces.Box((None,), (None,))),
    ],
)
def test_npz_files_with_actions_and_ends(tmp_path: Path, actions: np.ndarray, space: spaces.Space) -> None:
    rewards, ends = np.array([1.0, 0.5, -1.0]), np.array([False, False, True])
    write_npz(tmp_path / "s" / "0.npz", 0, None, None, actions=actions, rewards=rewards, terminations=ends, label=2)
    with Dataset(convert("npz", tmp_path / "s", tmp_path / "a.h5")) as data:
        episode = data.episode(0)
        assert data.header.action_space == space
        assert episode.actions.tolist() == actions.astype(space.dtype).tolist()
        assert episode.rewards.tolist() == rewards.tolist()
        assert episode.terminations.tolist() == ends.tolist()
        assert not episode.truncations.any()
        assert (episode.label, data.class_names) == (2, ("0", "1", "2"))


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"frames": np.zeros((4, 8), np.uint8)}, r"frames has shape \(4, 8\) uint8; wanted \(T\+1, H, W, 3\)"),
        ({"frames": np.full((4, 8, 6, 3), 1.5)}, r"frames has values in 1.5 \.\. 1.5; wanted floats in \[0, 1\]; div"),
        ({"frames": np.full((4, 8, 6, 3), np.nan)}, r"frames has values in nan \.\. nan"),
        ({"frames": np.full((4, 8, 6, 3), 256)}, r"frames has values in 256 .*; wanted integers in 0 \.\. 255"),
        ({"frames": np.zeros((4, 9, 6, 3), np.uint8)}, "as in the first file; give a size"),
        ({"actions": np.zeros(5, np.int64)}, r"actions has shape \(5,\) int64; wanted 3 actions between 4 frames"),
        ({"actions": np.zeros(4, np.int64)}, "actions has 4 rows for 4 frames, one too many.*--drop-action last"),
        ({"actions": np.array([0, -1, 0])}, "actions have -1; wanted integers counted from 0"),
        ({"actions": np.zeros(3)}, r"actions has shape \(3,\) float64; wanted \(T,\) or \(T, A\) integers"),
        ({"actions": np.zeros((3, 2), np.int64)}, r"an action has shape \(2,\) int64; wanted \(\) int64 as in"),
        ({"actions": np.array([None] * 3)}, "actions cannot be read"),
        ({"rewards": np.zeros(2)}, r"rewards has shape \(2,\) float64; wanted \(3,\) numbers"),
        ({"rewards": np.array([0, np.nan, 0])}, "rewards at 1 is nan"),
        ({"terminations": np.zeros(3)}, r"terminations has shape \(3,\) float64; wanted \(3,\) bool"),
        ({"terminations": np.array([True, False, False])}, "only its last step may end it"),
        ({"label": np.array([1])}, r"label has shape \(1,\) int64; wanted \(\) of an integer"),
        ({"label": 3}, "label is the number 3, other files have names"),
        ({"split": "holdout"}, "unknown split 'holdout'"),
        ({"acton": np.zeros(3)}, "unknown key 'acton'. Did you mean 'action'"),
        ({"action": np.zeros(3)}, "has 'actions' and 'action'; remove one"),
        ({"image": some_frames(0)}, "has 'frames' and 'image'; choose one with --camera"),
    ],
)
def test_wrong_npz_files_are_refused_by_name_and_key(tmp_path: Path, arrays: dict[str, Any], sentence: str) -> None:
    good = {"actions": np.array([0, 1, 2])}
    write_npz(tmp_path / "s" / "0.npz", 0, "train", "cat", **good)
    write_npz(tmp_path / "s" / "1.npz", 1, "test", "dog", **(good | arrays))
    with pytest.raises(UserError, match=rf"'.*1\.npz'.*{sentence}"):
        convert("npz", tmp_path / "s", tmp_path / "a.h5")
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_npz_frames_of_other_layouts_and_dtypes(tmp_path: Path) -> None:
    frames = some_frames(0, 4, (12, 10))
    old = some_frames(1, 4, (12, 10))
    grey = frames[..., :1]
    alpha = np.full_like(grey, 255)
    three_greys = np.concatenate([old, frames[..., :1]], axis=3)  # (T+1, H, W, 4)
    cases = {
        "channels first": (frames.transpose(0, 3, 1, 2), frames),
        "int64": (frames.astype(np.int64), frames),
        "float": (frames / 255, frames),
        "float16, first": ((frames / 255).astype(np.float16).transpose(0, 3, 1, 2), frames),
        "grey": (grey[..., 0], grey),
        "grey first": (grey.transpose(0, 3, 1, 2), grey),
        "alpha": (np.concatenate([frames, alpha], axis=3), frames),
        "two stacked": (np.concatenate([old, frames], axis=3), frames),
        "two stacked, first": (np.concatenate([old, frames], axis=3).transpose(0, 3, 1, 2), frames),
        "four greys": (three_greys, grey),
        "four greys, first": (three_greys.transpose(0, 3, 1, 2), grey),
        "stack axis": (np.stack([old, old, frames], axis=1), frames),
        "stack axis, first": (np.stack([old, frames], axis=1).transpose(0, 1, 4, 2, 3), frames),
    }
    for name, (array, wanted) in cases.items():
        found = frames_from_array(array, "x")
        assert found.dtype == np.uint8, name
        assert (found == np.broadcast_to(wanted, frames.shape)).all(), name


def test_npz_keys_of_other_programs_and_a_second_camera(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    arrays = {
        "image": some_frames(0),
        "image_side": some_frames(1),
        "reward": np.arange(3.0),
        "state": np.zeros((4, 2)),
    }
    np.savez(tmp_path / "s" / "0.npz", action=np.array([0, 1, 1]), **arrays)
    for camera, seed in (("", 0), ("image", 0), ("image_side", 1)):
        path = convert(None, tmp_path / "s", tmp_path / f"{seed}.h5", ImportOptions(camera=camera))
        with Dataset(path) as data:
            assert data.frames(0).tobytes() == some_frames(seed).tobytes()
            assert data.episode(0).actions.tolist() == [0, 1, 1]
            assert data.episode(0).rewards.tolist() == [0, 1, 2]
    with pytest.raises(UserError, match=r"unknown camera 'image_top'"):
        convert(None, tmp_path / "s", tmp_path / "a.h5", ImportOptions(camera="image_top"))


def test_npz_files_with_as_many_actions_as_frames(tmp_path: Path) -> None:
    arrays = {"observation": some_frames(0), "action": np.array([9, 1, 2, 3]), "reward": np.array([0.0, 4, 5, 6])}
    write_npz(tmp_path / "s" / "0.npz", 0, None, None, **arrays)
    (tmp_path / "s" / "0.npz").unlink()
    np.savez(tmp_path / "s" / "0.npz", **arrays)
    with Dataset(convert(None, tmp_path / "s", tmp_path / "a.h5", ImportOptions(drop_action="last"))) as data:
        assert data.episode(0).actions.tolist() == [9, 1, 2]
    ends = {"is_first": np.array([True, False, False, False]), "is_terminal": np.array([False, False, False, True])}
    np.savez(tmp_path / "s" / "0.npz", **arrays, **ends)  # as Dreamer writes them
    with Dataset(convert(None, tmp_path / "s", tmp_path / "b.h5")) as data:
        episode = data.episode(0)
        assert episode.actions.tolist() == [1, 2, 3]
        assert episode.rewards.tolist() == [4, 5, 6]
        assert episode.terminations.tolist() == [False, False, True]


def test_npz_files_must_all_have_actions_or_none(tmp_path: Path) -> None:
    write_npz(tmp_path / "s" / "0.npz", 0, None, None)
    write_npz(tmp_path / "s" / "1.npz", 1, None, None, actions=np.array([0, 1, 2]))
    with pytest.raises(UserError, match=r"0\.npz' has no actions, which other files have"):
        convert("npz", tmp_path / "s", tmp_path / "a.h5")
    np.savez(tmp_path / "s" / "0.npz", actions=np.array([0]))
    with pytest.raises(UserError, match=r"has the keys \['actions'\]; wanted one of frames, image"):
        convert("npz", tmp_path / "s", tmp_path / "a.h5")
    np.save(tmp_path / "s" / "0", np.zeros(3))
    (tmp_path / "s" / "0.npy").replace(tmp_path / "s" / "0.npz")
    with pytest.raises(UserError, match="has a single array"):
        convert("npz", tmp_path / "s", tmp_path / "a.h5")
    with pytest.raises(UserError, match="frame_skip=2 does not apply to the format 'npz'; its options are env, size"):
        convert("npz", tmp_path / "s", tmp_path / "a.h5", ImportOptions(frame_skip=2))


def test_action_labels_give_the_number_of_actions(tmp_path: Path) -> None:
    write_npz(tmp_path / "s" / "0.npz", 0, None, None, actions=np.array([0, 1, 0]))
    labels = ("stay", "left", "right")
    with Dataset(convert("npz", tmp_path / "s", tmp_path / "a.h5", ImportOptions(action_labels=labels))) as data:
        assert (data.header.action_space, data.header.action_labels) == (spaces.Discrete(3), labels)
    with pytest.raises(UserError, match=r"1 action_labels, but '.*s' has actions of Discrete\(n=2\)"):
        convert("npz", tmp_path / "s", tmp_path / "b.h5", ImportOptions(action_labels=("stay",)))
    write_videos(tmp_path / "v", [(None, None)])
    with pytest.raises(UserError, match=r"action_labels=.* does not apply to the format 'video'"):
        convert("video", tmp_path / "v", tmp_path / "b.h5", ImportOptions(action_labels=labels))


def test_videos_of_other_sizes_lengths_and_depths(tmp_path: Path) -> None:
    source = tmp_path / "s"
    source.mkdir()
    for i, size in enumerate([(8, 6), (16, 12)]):
        iio.imwrite(source / f"{i}.gif", some_frames(i, 5, size), plugin="pillow", duration=100, loop=0)
    with pytest.raises(UserError, match=r"1\.gif' has frames of \(16, 12, 3\), the first video has \(8, 6, 3\)"):
        convert("video", source, tmp_path / "a.h5")
    with Dataset(convert("video", source, tmp_path / "a.h5", ImportOptions(size=(8, 6), frame_skip=2))) as data:
        assert data.lengths.tolist() == [2, 2]
        assert data.header.frame_skip == 2
        assert data.frames(0).tobytes() == some_frames(0, 5)[::2].tobytes()
    with pytest.raises(UserError, match=r"gives 1 frames at frame_skip=5; wanted at least two"):
        convert("video", source, tmp_path / "a.h5", ImportOptions(frame_skip=5))
    (source / "a" / "b").mkdir(parents=True)
    iio.imwrite(source / "a" / "b" / "0.gif", some_frames(0), plugin="pillow", duration=100, loop=0)
    with pytest.raises(UserError, match="is nested too deep"):
        convert("video", source, tmp_path / "a.h5")


def test_mp4_videos(tmp_path: Path) -> None:
    pytest.importorskip("av")
    frames = np.repeat(np.arange(0, 250, 50, dtype=np.uint8), 32 * 48 * 3).reshape(5, 32, 48, 3)
    (tmp_path / "s").mkdir()
    iio.imwrite(tmp_path / "s" / "a.mp4", frames, plugin="pyav", codec="libx264", fps=10)
    with Dataset(convert("video", tmp_path / "s", tmp_path / "a.h5")) as data:
        assert data.num_frames == 5
        assert np.abs(data.frames(0).astype(int) - frames).max() < 8


def test_the_verb_converts_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_npz_source(tmp_path / "s", [("train", "a"), ("test", "b")])
    arguments = ["data", "convert", str(tmp_path / "s"), "--format", "npz", "--out", str(tmp_path / "a.h5")]
    cli.main([*arguments, "--size", "4", "3"])
    assert "2 episodes (1 train, 0 validation, 1 test), 8 frames" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    assert "exists; choose another --out" in capsys.readouterr().err
    arguments[4] = "npy"
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--force"])
    assert "unknown format 'npy'. Did you mean 'npz'?" in capsys.readouterr().err
    for size in ((0, 3), (9000, 3)):
        with pytest.raises(UserError, match="size="):
            ImportOptions(size=size)


def test_neither_the_source_nor_a_folder_is_replaced(tmp_path: Path) -> None:
    write_npz_source(tmp_path / "s", [("train", "a"), ("test", "b")])
    for out, message in ((tmp_path / "s" / ".." / "s", "is the source"), (tmp_path, "is a folder")):
        with pytest.raises(UserError, match=message):
            convert("npz", tmp_path / "s", out)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_failed_conversion_leaves_no_new_folder(tmp_path: Path) -> None:
    for i, size in enumerate(((8, 6), (9, 6))):
        write_gif(tmp_path / "s" / f"{i}.gif", some_frames(i, 2, size))
    (tmp_path / "old").mkdir()
    for out in ("new/deep", "old"):
        with pytest.raises(UserError, match="give a size to resize all"):
            convert("video", tmp_path / "s", tmp_path / out / "a.h5")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["0.gif", "1.gif", "old", "s"]
