"""The small verbs and the demo, through the command itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from worldmodel.cli import command_line as cli
from worldmodel.collect import record
from worldmodel.data import Dataset


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record("toy", "sticky", tmp_path_factory.mktemp("toy") / "toy.h5", episodes=20, progress=False)


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    cli.main(list(arguments))
    return capsys.readouterr().out


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        cli.main(list(arguments))
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1, message
    return message


def test_envs_lists_the_registry(capsys: pytest.CaptureFixture[str]) -> None:
    assert "worldmodel/DoomTakeCover-v0" in output(capsys, "envs")
    rows = json.loads(output(capsys, "envs", "--json"))
    assert {"toy", "doom/take-cover", "doom/health-gathering-supreme"} <= {row["name"] for row in rows}


def test_data_commands_inspect_a_dataset(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = json.loads(output(capsys, "data", "info", str(toy), "--json"))
    assert summary["num_episodes"] == 20
    assert "sticky" in output(capsys, "data", "info", str(toy))
    assert json.loads(output(capsys, "data", "verify", str(toy), "--json"))["num_episodes"] == 20
    output(capsys, "data", "preview", str(toy), "--out", str(tmp_path / "p"))
    sheet = np.asarray(Image.open(tmp_path / "p" / "contact-sheet.png"))
    assert sheet.std() > 10
    with Image.open(tmp_path / "p" / "episodes.gif") as animation:
        assert animation.n_frames > 5


def test_a_stopped_recording_is_sealed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Stop(Exception):
        pass

    played = 0

    def policy(frame: np.ndarray) -> int:
        nonlocal played
        played += 1
        if played > 100:
            raise Stop
        return played % 5

    with pytest.raises(Stop):
        record("toy", policy, tmp_path / "a.h5", episodes=50, progress=False)
    half = tmp_path / "half.h5"
    assert "of 50 planned" in output(capsys, "data", "seal", str(tmp_path / "a.h5.parts"), "--out", str(half))
    with Dataset(half) as data:
        assert 2 < data.num_episodes < 50
        assert data.num_steps <= 100
    assert "exists" in refusal(capsys, "data", "seal", str(tmp_path / "a.h5.parts"), "--out", str(half))
    assert "no part files" in refusal(capsys, "data", "seal", str(tmp_path), "--out", str(tmp_path / "x.h5"))


def test_datasets_are_merged(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = record("toy", "random", tmp_path / "b.h5", episodes=10, seed=5, progress=False)
    both = tmp_path / "both.h5"
    assert "30 episodes" in output(capsys, "data", "merge", str(toy), str(other), "--out", str(both))
    assert json.loads(output(capsys, "data", "info", str(both), "--json"))["num_episodes"] == 30
    other.unlink()
    assert "b.h5" in refusal(capsys, "data", "info", str(both))


def test_a_bad_file_is_one_sentence(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = tmp_path / "foreign.h5"
    foreign.write_bytes(b"not a dataset at all" * 100)
    assert "foreign.h5" in refusal(capsys, "data", "info", str(foreign))
    content = toy.read_bytes()
    (tmp_path / "cut.h5").write_bytes(content[: len(content) // 2])
    assert "cut.h5" in refusal(capsys, "data", "info", str(tmp_path / "cut.h5"))
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    (tmp_path / "flipped.h5").write_bytes(flipped)
    assert "episode" in refusal(capsys, "data", "verify", str(tmp_path / "flipped.h5"))
    assert "at least one" in refusal(capsys, "data", "info")
    world = ("train", "world", "--data", str(foreign), "--out", str(tmp_path / "w"), "--preset", "tiny")
    assert "foreign.h5" in refusal(capsys, *world)
    assert not (tmp_path / "w").exists()


def test_benchmarks_save_machine_and_versions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "loader.json"
    text = output(capsys, "bench", "loader", "--episodes", "4", "--steps", "40", "--seconds", "0.05", "--out", str(out))
    assert "clip_sampler_ram" in text
    result = json.loads(out.read_text())
    assert {"machine", "packages", "code_version", "rows"} <= set(result)
    text = output(capsys, "bench", "collect", "--env", "toy", "--episodes", "6", "--rounds", "1")
    assert "recorded, 2 processes" in text


@pytest.mark.slow
def test_the_demo_continues_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from worldmodel.cli import demo_stages

    out = tmp_path / "demo"
    arguments = [
        "demo", "--env", "toy", "--episodes", "60", "--policy-minutes", "0.05", "--world-minutes", "0.2",
        "--world-preset", "tiny", "--eval-clips", "8", "--eval-rows", "4", "--test-episodes", "4", "--out", str(out),
        "--policy-world", "",
    ]  # fmt: skip

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo_stages, "train", stop)
        with pytest.raises(SystemExit) as exit_:
            cli.main(arguments)
    assert exit_.value.code == 130
    recorded = (out / "cover.h5").stat().st_mtime_ns
    output(capsys, *arguments)
    assert (out / "cover.h5").stat().st_mtime_ns == recorded
    page = (out / "report.html").read_text()
    assert page.count("data:image/") >= 6
    for words in ("nats per code", "order of policies kept", "policy trained only in the dream"):
        assert words in page
    assert 'src="http' not in page
