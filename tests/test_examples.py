"""The examples run, and with their full training they reach what they describe."""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parent.parent


def run(name: str, *arguments: str | Path) -> str:
    """Run an example as a user does; returns what it prints."""
    torch.set_num_threads(1)
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        patch.setattr("sys.argv", [name, *map(str, arguments)])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    return output.getvalue()


def figures(output: str, words: str) -> list[float]:
    """The numbers after some words at the beginning of a line."""
    line = next(line for line in output.splitlines() if line.startswith(words))
    return [float(number) for number in re.findall(r"-?\d+\.\d+", line[len(words) :])]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a world of the toy trained for a few steps, and the output of PPO on tensors."""
    folder = tmp_path_factory.mktemp("quick")
    return folder, run("tensor_ppo.py", folder, "--quick")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The same of a world with its full training."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, run("tensor_ppo.py", folder)


def test_ppo_on_tensors_runs(quick: tuple[Path, str]) -> None:
    assert "decisions per second" in quick[1]
    mean, low, high = figures(quick[1], "in the environment: return")
    assert 0 <= low <= mean <= high <= 10


def test_planning_runs(quick: tuple[Path, str]) -> None:
    output = run("plan_in_the_toy.py", quick[0], "--quick", "--episodes", "2")
    for policy in ("planned", "random"):
        assert 0 <= figures(output, f"{policy}: return")[0] <= 10
        assert 0 <= figures(output, f"{policy}: success")[0] <= 1


def test_surprise_runs(tmp_path: Path) -> None:
    output = run("surprise.py", tmp_path, "--quick")
    assert figures(output, "own:")[0] < 0
    assert 0 <= figures(output, "other player:")[1] <= 1


def test_a_loop_of_recordings_worlds_and_policies_runs(tmp_path: Path) -> None:
    output = run("dream_loop.py", tmp_path, "--quick")
    assert output.count("random ") == 2
    for name in ("data.h5", "world/config.json", "policy/policy.zip"):
        assert all((tmp_path / f"round-{number}" / name).exists() for number in (1, 2))
    policy = json.loads((tmp_path / "round-2" / "policy" / "policy.json").read_text())
    assert policy["init_from"]["path"].endswith("round-1/policy/policy.zip")


@pytest.mark.slow
def test_lookahead_makes_a_weak_policy_good(tmp_path: Path) -> None:
    output = run("look_ahead.py", tmp_path)
    alone, ahead = figures(output, "alone: return"), figures(output, "lookahead: return")
    assert alone[2] < 5 < ahead[1]


@pytest.mark.slow
def test_ppo_on_tensors_learns_the_toy(trained: tuple[Path, str]) -> None:
    assert figures(trained[1], "in the environment: return")[0] >= 9


@pytest.mark.slow
def test_plans_reach_the_shelter(trained: tuple[Path, str]) -> None:
    output = run("plan_in_the_toy.py", trained[0], "--episodes", "12")
    planned, random = figures(output, "planned: return"), figures(output, "random: return")
    assert planned[0] >= 9
    assert planned[1] > random[2] + 5


@pytest.mark.slow
def test_surprise_is_higher_for_other_actions_and_another_player(tmp_path: Path) -> None:
    output = run("surprise.py", tmp_path)
    assert figures(output, "other actions:")[1] >= 0.75  # chance is 0.5
    assert figures(output, "other player:")[1] >= 0.95
    hit, sheltered = figures(output, "storms of the other player:")
    assert hit < sheltered - 1


def test_a_long_dream_is_written_as_a_sheet(tmp_path: Path) -> None:
    output = run("long_dream.py", "toy", tmp_path / "dream.png", "--steps", "60")
    assert len(output.splitlines()) == 11
    assert all(change > 1 for change, _, _ in (map(float, line.split()[3:]) for line in output.splitlines()[1:])), (
        "the frames change"
    )
    with Image.open(tmp_path / "dream.png") as sheet:
        assert np.asarray(sheet).std() > 10
