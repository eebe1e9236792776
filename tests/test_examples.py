"""The examples that plan, judge and learn on tensors: they run, and given their time they do what they say."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"


def say(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Run an example as its user would; what it prints."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    torch.set_num_threads(1)
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


def figure(said: str, words: str) -> list[float]:
    """The numbers of the line that begins with some words, after them."""
    line = next(line for line in said.splitlines() if line.startswith(words))
    return [float(number) for number in re.findall(r"-?\d+\.\d+", line[len(words) :])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests of one kind share what the first of them recorded and learned."""
    return tmp_path_factory.mktemp("toy")


def test_ppo_on_tensors_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = say("tensor_ppo.py", [str(folder / "quick"), "--quick"], monkeypatch, capsys)
    assert figure(said, "in the dream:") == []
    mean, low, high = figure(said, "outside the dream: return")
    assert 0 <= low <= mean <= high <= 10


def test_planning_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = say("plan_in_the_toy.py", [str(folder / "quick"), "--quick", "--episodes", "2"], monkeypatch, capsys)
    for who in ("planned", "random"):
        assert 0 <= figure(said, f"{who}: return")[0] <= 10
        assert 0 <= figure(said, f"{who}: success")[0] <= 1


def test_surprise_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = say("surprise.py", [str(folder / "player"), "--quick"], monkeypatch, capsys)
    assert figure(said, "own:")[0] < 0
    assert 0 <= figure(said, "other player:")[1] <= 1


@pytest.mark.slow
def test_ppo_on_tensors_learns_the_toy(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = say("tensor_ppo.py", [str(folder / "whole")], monkeypatch, capsys)
    assert figure(said, "outside the dream: return")[0] >= 9


@pytest.mark.slow
def test_plans_reach_the_shelter(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = say("plan_in_the_toy.py", [str(folder / "whole"), "--episodes", "12"], monkeypatch, capsys)
    planned, blind = figure(said, "planned: return"), figure(said, "random: return")
    assert planned[0] >= 9
    assert planned[1] > blind[2] + 5


@pytest.mark.slow
def test_surprise_tells_other_actions_and_another_player(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = say("surprise.py", [str(folder / "players")], monkeypatch, capsys)
    assert figure(said, "other actions:")[1] >= 0.95
    assert figure(said, "other player:")[1] >= 0.95
    hit, sheltered = figure(said, "storms of the other player:")
    assert hit < sheltered - 1
