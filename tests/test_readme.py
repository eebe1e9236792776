"""The code, commands and links of the README, and the examples, work as written."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from worldmodel.cli import command_line as cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def run(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=200)


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    found = blocks("python")
    assert len(found) == 4
    result = run(["-c", "\n".join(found)], tmp_path)
    assert result.returncode == 0, result.stderr
    assert "(8, 6, 64, 64, 3)" in result.stdout
    assert "torch.Size([4, 13, 64, 64, 3])" in result.stdout


def test_the_commands_of_the_readme_are_commands() -> None:
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("worldmodel ")]
    assert len(lines) >= 8
    for line in lines:
        verb, _ = cli.parse(shlex.split(line)[1:])
        assert line.startswith(f"worldmodel {verb}")
    targets = {line.split()[1] for block in blocks("bash") for line in block.splitlines() if line.startswith("make ")}
    assert targets
    assert targets <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


def test_the_links_of_the_readme_exist() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
    tree = README.split("```\nenvs/", 1)[1].split("```")[0]
    for name in re.findall(r"^  ([a-z]+(?:/|\.py)) ", tree, re.M):
        assert (ROOT / "worldmodel" / name).exists(), name


def test_the_example_of_an_own_environment_runs(tmp_path: Path) -> None:
    result = run([str(ROOT / "examples" / "own_environment.py"), str(tmp_path)], tmp_path)
    assert result.returncode == 0, result.stderr
    assert "10 episodes" in result.stdout


@pytest.mark.slow
def test_the_example_of_a_toy_dream_runs(tmp_path: Path) -> None:
    result = run([str(ROOT / "examples" / "dream_of_the_toy.py"), str(tmp_path)], tmp_path)
    assert result.returncode == 0, result.stderr
    assert "20 dreamed steps" in result.stdout
