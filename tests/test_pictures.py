"""`predict` and `sample`: images and videos of what a world predicts."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from worldmodel.cli.action_text import parse_actions
from worldmodel.cli.command_line import main
from worldmodel.collect import record
from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.data import Dataset
from worldmodel.train.presets import PRESETS
from worldmodel.train.trainers import train_world


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    record("toy", "sticky", folder / "toy.h5", episodes=20, progress=False, size=(32, 32))
    tiny = PRESETS["tiny"]
    loops = {name: replace(getattr(tiny, name), num_steps=40) for name in ("train_tokenizer", "train_prior")}
    # seed 4: after so few steps not every seed's dream depends on its actions
    train_world(Dataset(folder / "toy.h5", crop=(0, 24, 8, 32)), folder / "w", replace(tiny, seed=4, **loops))
    return folder


def run(*words: object) -> int:
    try:
        main([str(w) for w in words])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_predict_writes_recorded_reconstructed_and_dreamed_frames(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ("predict", "--world", folder / "w", "--data", folder / "toy.h5", "--episode", 3, "--length", 9)
    for kind in ("png", "gif", "mp4"):
        if kind == "mp4":
            pytest.importorskip("av")
        out = folder / f"p.{kind}"
        assert run(*base, "--out", out, "--json") == 0
        figures = json.loads(capsys.readouterr().out)
        assert 2 <= figures["frames"] <= 9
        picture = iio.imread(out)
        if kind == "gif":  # three videos of 24 x 24 with lines between, three times enlarged
            assert picture.shape[1:] == (26 * 3, 3 * 26 * 3, 3)  # frames that do not change are joined
            real = Dataset(folder / "toy.h5", crop=(0, 24, 8, 32)).episode(3).frames[0]
            assert np.abs(picture[0, :72:3, :72:3].astype(int) - real).mean() < 8  # a GIF's palette
        if kind == "mp4":
            assert picture.shape[0] == figures["frames"]
    assert run(*base, "--out", out) == 2
    assert "exists" in capsys.readouterr().err


def test_other_actions_give_another_dream(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ("predict", "--world", folder / "w", "--data", folder / "toy.h5", "--episode", 3, "--length", 6)
    (folder / "plan.txt").write_text("up*3, down\nstay*5")
    for actions in ("recorded", "shuffled", folder / "plan.txt"):
        assert run(*base, "--actions", actions, "--out", folder / f"{Path(str(actions)).stem}.png") == 0
    a, b, c = ((folder / f"{name}.png").read_bytes() for name in ("recorded", "shuffled", "plan"))
    assert len({a, b, c}) == 3


def test_sample_writes_a_row_for_each_dream(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ("sample", "--world", folder / "w", "--num", 3, "--actions", "up*2,left*2")
    for kind in ("png", "gif"):
        assert run(*base, "--out", folder / f"s.{kind}") == 0
    assert "3 dreams of 4 steps" in capsys.readouterr().out
    assert iio.imread(folder / "s.gif").shape[1:] == (26 * 3, 3 * 26 * 3, 3)
    assert iio.imread(folder / "s.png").shape[0] == 3 * (2 * 24 + 2)
    assert run(*base, "--out", folder / "again.png") == 0
    assert (folder / "again.png").read_bytes() == (folder / "s.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("predict", "--episode", 99), "episode 99 does not exist"),
        (("predict", "--start", 500), "wanted at least two"),
        (("predict", "--actions", "nowhere.txt"), "no such file"),
        (("sample", "--actions", "upp*3"), "Did you mean 'up'"),
        (("sample", "--actions", "up*x"), "NAME\\*TIMES"),
        (("sample", "--start", 10**6), "this world has starts"),
        (("sample", "--top-p", 0), "top_p"),
    ],
)
def test_a_users_mistake_is_one_sentence(
    words: tuple, sentence: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--data", folder / "toy.h5") if words[0] == "predict" else ()
    assert run(words[0], "--world", folder / "w", *data, "--out", tmp_path / "x.png", *words[1:]) == 2
    error = capsys.readouterr().err
    assert re.search(sentence, error), error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_unknown_suffix_and_data_of_another_environment_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("sample", "--world", folder / "w", "--out", tmp_path / "x.jpeg") == 2
    assert ".png, .gif or .mp4" in capsys.readouterr().err
    record("toy/continuous", "random", tmp_path / "other.h5", episodes=10, progress=False, size=(32, 32))
    assert run("predict", "--world", folder / "w", "--data", tmp_path / "other.h5", "--out", tmp_path / "x.png") == 2
    assert "same environment" in capsys.readouterr().err


def test_actions_of_every_space_are_parsed() -> None:
    assert parse_actions("1*2,0", spaces.Discrete(2)).tolist() == [1, 1, 0]
    assert parse_actions("1 2*2", spaces.MultiDiscrete((2, 3))).tolist() == [[1, 2], [1, 2]]
    assert parse_actions("0.5 -1", spaces.Box((-1.0, -1.0), (1.0, 1.0))).tolist() == [[0.5, -1.0]]
    assert parse_actions("1 0 1*1", spaces.MultiBinary(3)).tolist() == [[1, 0, 1]]
    for bad in ("", "1.5", "a", "7"):
        with pytest.raises(UserError):
            parse_actions(bad, spaces.Discrete(2))
