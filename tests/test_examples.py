"""The examples that plan, judge and learn on tensors: they run, and given their time they do what they say."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parent.parent


def run(name: str, *arguments: str | Path) -> str:
    """Run an example as its user would; what it prints."""
    torch.set_num_threads(1)
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr("sys.argv", [name, *map(str, arguments)])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    return said.getvalue()


def figures(said: str, words: str) -> list[float]:
    """The numbers of the line that begins with some words, after them."""
    line = next(line for line in said.splitlines() if line.startswith(words))
    return [float(number) for number in re.findall(r"-?\d+\.\d+", line[len(words) :])]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a world of the toy learned in a few steps, and what PPO on tensors said of it."""
    folder = tmp_path_factory.mktemp("quick")
    return folder, run("tensor_ppo.py", folder, "--quick")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The same of a world learned well."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run("tensor_ppo.py", folder)


def test_ppo_on_tensors_runs(quick: tuple[Path, str]) -> None:
    assert "decisions a second" in quick[1]
    mean, low, high = figures(quick[1], "outside the dream: return")
    assert 0 <= low <= mean <= high <= 10


def test_planning_runs(quick: tuple[Path, str]) -> None:
    said = run("plan_in_the_toy.py", quick[0], "--quick", "--episodes", "2")
    for who in ("planned", "random"):
        assert 0 <= figures(said, f"{who}: return")[0] <= 10
        assert 0 <= figures(said, f"{who}: success")[0] <= 1


def test_the_loop_of_the_documents_runs(quick: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "worlds.md").read_text(), re.S)
    (source,) = [block for block in blocks if "CrossEntropy" in block]
    monkeypatch.chdir(quick[0])
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(source.replace("toyworld", "world"), {})
    assert "torch.Size([32, 9, 16, 16, 3])" in said.getvalue()


def test_surprise_runs(tmp_path: Path) -> None:
    said = run("surprise.py", tmp_path, "--quick")
    assert figures(said, "own:")[0] < 0
    assert 0 <= figures(said, "other player:")[1] <= 1


@pytest.mark.slow
def test_ppo_on_tensors_learns_the_toy(whole: tuple[Path, str]) -> None:
    assert figures(whole[1], "outside the dream: return")[0] >= 9


@pytest.mark.slow
def test_plans_reach_the_shelter(whole: tuple[Path, str]) -> None:
    said = run("plan_in_the_toy.py", whole[0], "--episodes", "12")
    planned, blind = figures(said, "planned: return"), figures(said, "random: return")
    assert planned[0] >= 9
    assert planned[1] > blind[2] + 5


@pytest.mark.slow
def test_surprise_tells_other_actions_and_another_player(tmp_path: Path) -> None:
    said = run("surprise.py", tmp_path)
    assert figures(said, "other actions:")[1] >= 0.75  # chance is 0.5
    assert figures(said, "other player:")[1] >= 0.95
    hit, sheltered = figures(said, "storms of the other player:")
    assert hit < sheltered - 1


def test_a_long_dream_is_drawn(tmp_path: Path) -> None:
    said = run("long_dream.py", "toy", tmp_path / "dream.png", "--steps", "60")
    assert len(said.splitlines()) == 11
    assert all(change > 1 for change, _, _ in (map(float, line.split()[3:]) for line in said.splitlines()[1:])), (
        "it moves"
    )
    with Image.open(tmp_path / "dream.png") as sheet:
        assert np.asarray(sheet).std() > 10
