"""Recording in worker processes: what they receive from the parent, and clean-up by the environment's manager."""

from __future__ import annotations

import ast
import functools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import worldmodel
from worldmodel import envs
from worldmodel.collect import record
from worldmodel.common.errors import UserError
from worldmodel.common.subprocesses import python_environment
from worldmodel.data.dataset import Dataset
from worldmodel.envs import EnvRow, env_registry
from worldmodel.envs.process_manager import load_process_manager
from worldmodel.envs.registrations import pickle_registrations
from worldmodel.envs.toy import ToyEnv

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


SCRIPT = """
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np

from worldmodel.collect import record
from worldmodel.collect.collect_config import TrainPolicy
from worldmodel.collect.learner_config import LearnerConfig
from worldmodel.collect.env_options import EnvOptions
from worldmodel.collect.policy_evaluation import evaluate
from worldmodel.collect.policy_specs import PolicySpec
from worldmodel.collect.policy_training import train_policy
from worldmodel.envs import EnvRow, register


class Walk(gym.Env):
    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, length=5, render_mode=None):
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.picture(), {}

    def step(self, action):
        self.steps += 1
        return self.picture(), float(action), self.steps == self.length, False, {}

    def picture(self):
        return self.np_random.integers(0, 256, (16, 16, 3), dtype=np.uint8)


if __name__ == "__main__":
    gym.register("Local/Walk-v0", entry_point=Walk)
    gym.register("Local/Named-v0", entry_point="__main__:Walk", kwargs={"length": 3})
    register(EnvRow(id="Local/Row-v0", name="local-row", entry_point="__main__:Walk"))
    register(EnvRow(id="Local/Class-v0", name="local-class", entry_point=Walk, kwargs={"length": 4}))
    small = {"episodes": 2, "size": 16, "progress": False}
    sources = ["Local/Named-v0", "local-row", lambda: gym.make("Local/Class-v0")]
    for i, source in enumerate(sources):
        files = [record(source, "random", f"{i}-{workers}.h5", workers=workers, **small) for workers in (1, 2)]
        assert files[0].read_bytes() == files[1].read_bytes(), source
    policies = {"random": PolicySpec("random", "random")}
    rows = evaluate(policies, "local-class", {"size": 16}, 4, 0, 2)
    assert rows[0]["steps_mean"] == 4
    learner = LearnerConfig(decisions=16, num_envs=2, rollout_steps=8, batch_size=16, width=4)
    train_policy(TrainPolicy(Path("policy"), "Local/Walk-v0", 0, EnvOptions(size=(16, 16)), learner))
    print("done")
"""


@pytest.mark.slow
def test_registrations_of_a_script_reach_its_processes(tmp_path: Path) -> None:
    """By gymnasium and by this package, as strings and as classes; and classes and functions of the script."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, env=environment())
    assert result.stdout.splitlines()[-1:] == ["done"], result.stderr


def test_other_arguments_of_a_built_in_environment_reach_the_workers(tmp_path: Path) -> None:
    envs.register(EnvRow("Local/ShortToy-v0", "short-toy", "worldmodel.envs.toy:ToyEnv", {"max_steps": 3}))
    gym.register("Local/LongToy-v0", "worldmodel.envs.toy:ToyEnv", kwargs={"max_steps": 5, "size": 16})
    try:
        for name, length in (("Local/ShortToy-v0", 3), ("Local/LongToy-v0", 5)):
            path = tmp_path / f"{length}.h5"
            record(functools.partial(gym.make, name), "random", path, episodes=2, workers=2, progress=False)
            with Dataset(path) as data:
                assert set(data.lengths) == {length}
        path = record("short-toy", "random", tmp_path / "name.h5", episodes=2, workers=2, size=16, progress=False)
        with Dataset(path) as data:
            assert set(data.lengths) == {3}
    finally:
        env_registry._ROWS.pop("Local/ShortToy-v0")
        for name in ("Local/ShortToy-v0", "Local/LongToy-v0"):
            gym.registry.pop(name)


def test_an_environment_that_cannot_be_pickled_is_refused(tmp_path: Path) -> None:
    import threading

    class Locked(gym.Env):  # type: ignore[type-arg]
        lock = threading.Lock()
        observation_space = gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)
        action_space = gym.spaces.Discrete(2)

    gym.register("Local/Locked-v0", entry_point=Locked)
    try:
        with pytest.raises(UserError, match="'Local/Locked-v0' cannot be sent to other processes"):
            record("Local/Locked-v0", "random", tmp_path / "a.h5", episodes=2, workers=2, progress=False)
        lock = threading.Lock()
        with pytest.raises(UserError, match=r"cannot be sent to other processes .*workers=1"):
            record(lambda: (lock, ToyEnv())[1], "random", tmp_path / "c.h5", episodes=2, workers=2, progress=False)
        record("toy", "random", tmp_path / "b.h5", episodes=2, workers=2, progress=False)  # others are not affected
    finally:
        gym.registry.pop("Local/Locked-v0")


SMALL_TOY = ("--env", "toy", "--size", "16", "16")
POOL = """
import os
from concurrent.futures import ProcessPoolExecutor
from worldmodel.common.subprocesses import start_forkserver

with ProcessPoolExecutor(1, start_forkserver()) as pool:
    print(pool.submit(os.getpid).result() != os.getpid())
"""


def run_in_folder_with_modules(folder: Path, *arguments: str) -> str:
    """stdout of a Python process in a folder with files that have the names of modules."""
    for name in ("worldmodel.py", "random.py"):
        (folder / name).write_text("raise RuntimeError('a file of the current folder was imported')\n")
    command = [sys.executable, "-P", *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, env=environment())
    assert result.returncode == 0, result.stderr
    assert "was imported" not in result.stderr
    return result.stdout


def test_files_in_the_current_folder_replace_no_modules(tmp_path: Path) -> None:
    verb = ("collect", *SMALL_TOY, "--policy", "random", "--episodes", "4", "--out", "a.h5")
    assert "4 episodes" in run_in_folder_with_modules(tmp_path, "-m", "worldmodel", *verb)
    assert run_in_folder_with_modules(tmp_path, "-c", POOL) == "True\n"


@pytest.mark.slow
def test_files_in_the_current_folder_replace_no_modules_in_training_and_evaluation(tmp_path: Path) -> None:
    learner = ("--learner.decisions", "16", "--learner.rollout-steps", "8", "--learner.num-envs", "2")
    run = ("-m", "worldmodel")
    run_in_folder_with_modules(tmp_path, *run, "train", "policy", *SMALL_TOY, *learner, "--out", "policy")
    run_in_folder_with_modules(tmp_path, *run, "eval", "policy", "policy", *SMALL_TOY, "--episodes", "2")


def environment() -> dict[str, str]:
    """Environment variables with this checkout in PYTHONPATH."""
    return {**os.environ, "PYTHONPATH": str(Path(worldmodel.__file__).parent.parent)}


def test_worker_processes_import_from_the_folders_of_their_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["", "/somewhere", *sys.path])
    folders = python_environment()["PYTHONPATH"].split(os.pathsep)
    assert folders[:2] == [os.getcwd(), "/somewhere"]
    assert os.environ.get("PYTHONSAFEPATH") is None


def test_ids_of_packages_that_workers_import_themselves_are_not_sent() -> None:
    ids = ("VizdoomOfTests-v0", "minigrid/OfTests-v0", "OfTests-v0")
    for env_id in ids:
        gym.register(id=env_id, entry_point="worldmodel.envs.toy:ToyEnv")
    try:
        _, entries = pickle.loads(pickle_registrations())
        sent = {name for names, _ in entries for name in names}
        assert sent & set(ids) == {"OfTests-v0"}  # gymnasium would warn of the others: they are registered twice
    finally:
        for env_id in ids:
            del gym.registry[env_id]
