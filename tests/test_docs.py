"""The code, commands and links of the README and of the pages in docs/ work as written.

A Python block after the line "% slow" needs a minute and runs in a slow test.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from worldmodel.cli import command_line as cli

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "results").rglob("*.md")))
    if "_build" not in path.parts
}

SHELL = "(?:bash|sh)"

# Runs the blocks of each page in a folder of its own and prints, page by page, the output or the error.
RUNNER = """
import contextlib, io, json, os, sys, traceback
results = {}
for page, source in json.load(open(sys.argv[1])).items():
    os.makedirs(page)
    os.chdir(page)
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            if "mine.h5" in source:
                from worldmodel.collect import record
                record("toy", "random", "mine.h5", episodes=10, size=16, progress=False)
            exec(compile(source, page, "exec"), {"__name__": "__main__"})
        results[page] = {"output": output.getvalue(), "error": ""}
    except BaseException:
        results[page] = {"output": output.getvalue(), "error": traceback.format_exc()}
    os.chdir(sys.argv[2])
print("RESULTS" + json.dumps(results))
"""

# What the blocks of a page print, besides other lines.
EXPECTED = {
    "README.md": "64, 3)",
    "docs/guides/collect.md": "(8, 6, 64, 64, 3)",
    "docs/guides/train.md": "True",
    "docs/guides/dream.md": "torch.Size([32, 9, 16, 16, 3])",
    "docs/guides/your_own_data.md": "{'train': 16, 'validation': 2, 'test': 2}\n('left', 'right', 'stay')",
    "docs/guides/own_environment.md": "{'left': 4.0}",
}


def blocks(page: str, language: str, slow: bool = False) -> list[str]:
    """The blocks of a language; those after the line "% slow" only if `slow`."""
    found = re.findall(rf"(% slow\n+)?```{language}\n(.*?)```", PAGES[page], re.S)
    return [text for mark, text in found if slow or not mark]


def run_pages(folder: Path, slow: bool = False) -> dict[str, dict[str, str]]:
    """Run the Python blocks of all pages in one process: page -> output and error."""
    sources = {page: "\n".join(blocks(page, "python", slow)) for page in PAGES}
    (folder / "sources.json").write_text(json.dumps({page: source for page, source in sources.items() if source}))
    arguments = [sys.executable, "-c", RUNNER, "sources.json", str(folder)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(arguments, cwd=folder, env=env, capture_output=True, text=True, timeout=250)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.rpartition("RESULTS")[2])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    return run_pages(tmp_path_factory.mktemp("pages"))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_blocks_run(page: str, results: dict[str, dict[str, str]]) -> None:
    assert not results[page]["error"], results[page]["error"]
    assert EXPECTED.get(page, "") in results[page]["output"]


def test_every_page_with_an_expected_output_has_python_blocks() -> None:
    assert all(blocks(page, "python") for page in EXPECTED)


@pytest.mark.slow
def test_slow_python_blocks_run(tmp_path: Path) -> None:
    for page, result in run_pages(tmp_path, slow=True).items():
        assert not result["error"], f"{page}: {result['error']}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, SHELL)])
def test_commands_are_valid(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    extras = set(re.findall(r"^([a-z]+) = \[", (ROOT / "pyproject.toml").read_text(), re.M))
    lines = [line for block in blocks(page, SHELL) for line in block.replace("\\\n", "").splitlines()]
    for line in filter(None, lines):
        words = shlex.split(line, comments=True)
        if words[0] == "worldmodel":
            verb, _ = cli.parse(words[1:])
            assert line.startswith(f"worldmodel {verb}")
        elif words[0] == "make":
            assert words[1] in targets, line
        elif words[0] == "python":
            assert (ROOT / words[1]).exists(), line
        else:
            assert words[:2] == ["pip", "install"], line
            assert words[2].removeprefix("worldmodel[").removesuffix("]") in extras, line


@pytest.mark.parametrize("page", PAGES)
def test_links_exist(page: str) -> None:
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", PAGES[page], flags=re.S)):
        path = target.partition("#")[0]
        assert target.startswith("http") or not path or (folder / path).exists(), target
    for target in re.findall(r"```\{literalinclude\} (\S+)", PAGES[page]):
        assert (folder / target).exists(), target


def test_the_file_tree_of_the_readme_is_complete() -> None:
    tree = PAGES["README.md"].split("```\nenvs/", 1)[1].split("```")[0]
    listed = set(re.findall(r"^  ([a-z]+)/ ", tree, re.M))
    folders = {path.name for path in (ROOT / "worldmodel").iterdir() if path.is_dir() and path.name[0] != "_"}
    assert listed == folders - {"envs", "collect"}


def test_every_page_says_what_its_metrics_measure() -> None:
    from worldmodel.metrics import CLIP_METRICS, METRICS

    for page, names in (("docs/guides/evaluate.md", METRICS), ("docs/guides/video_metrics.md", CLIP_METRICS)):
        assert [name for name in names if f"`{name}`" not in PAGES[page]] == []


def test_the_example_of_an_own_environment_runs(tmp_path: Path) -> None:
    arguments = [sys.executable, str(ROOT / "examples" / "own_environment.py"), str(tmp_path)]
    result = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    assert "10 episodes" in result.stdout


@pytest.mark.slow
def test_the_example_of_a_toy_dream_runs(tmp_path: Path) -> None:
    arguments = [sys.executable, str(ROOT / "examples" / "dream_of_the_toy.py"), str(tmp_path)]
    result = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    assert "20 dreamed steps" in result.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_commands_of_getting_started_run(tmp_path: Path) -> None:
    for block in blocks("docs/getting_started.md", "bash"):
        for line in block.splitlines():
            if line.startswith("worldmodel "):
                arguments = [sys.executable, "-m", *shlex.split(line)]
                result = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=1200)
                assert result.returncode == 0, f"{line}\n{result.stderr}"
    assert (tmp_path / "evaluation.json").exists()
