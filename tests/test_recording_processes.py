"""Recording in worker processes: what they receive from the parent, and clean-up by the environment's manager."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from worldmodel.collect import record
from worldmodel.envs.process_manager import load_process_manager

COLLECT = Path(__file__).parent.parent / "collect"

MANAGED = """
import os
from pathlib import Path

from worldmodel.envs.toy import ToyEnv

LOG = Path(os.environ["TEST_MANAGER_LOG"])


def set_run(token, records_dir=None):
    with LOG.open("a") as log:
        log.write(f"set_run {os.getpid()} {token} {Path(records_dir).is_dir()}\\n")


def sweep(token, records_dir=None):
    with LOG.open("a") as log:
        log.write(f"sweep {os.getpid()} {token} {Path(records_dir).is_dir()}\\n")


class ManagedEnv(ToyEnv):
    process_manager = "managed_env"
"""


def test_workers_set_the_run_of_the_environments_process_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "managed_env.py").write_text(MANAGED)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TEST_MANAGER_LOG", str(tmp_path / "log"))
    import managed_env  # type: ignore[import-not-found]

    path = tmp_path / "a.h5"
    record(lambda: managed_env.ManagedEnv(), "random", path, episodes=4, workers=2, progress=False)
    calls = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert {call[2] for call in calls} == {calls[0][2]}, "one token for all processes"
    assert all(call[3] == "True" for call in calls), "the records folder exists"
    assert len({call[1] for call in calls if call[0] == "set_run"}) == 2, "every worker sets the run"
    assert calls[0][0] == "sweep", "swept before the first worker starts"
    sys.modules.pop("managed_env")


def test_environments_without_processes_have_a_manager_without_effect(tmp_path: Path) -> None:
    manager = load_process_manager("")
    manager.set_run("token", tmp_path)
    assert manager.sweep("token", tmp_path) is None


def test_collect_does_not_import_the_doom_modules() -> None:
    for path in COLLECT.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = getattr(node, "module", None) or ""
            assert not any("doom" in name for name in [*names, module]), f"{path.name} imports {names} of {module}"
