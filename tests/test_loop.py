"""`worldmodel loop`: its rounds are ordinary files, and a loop that was killed gives the same data and worlds."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from worldmodel.cli import command_line as cli
from worldmodel.cli import loop_command
from worldmodel.cli.loop_command import loop, loop_stages
from worldmodel.cli.round_folder import RoundFolder
from worldmodel.cli.rounds_config import RecordingConfig, RoundsConfig
from worldmodel.cli.rounds_table import format_rounds, round_rows
from worldmodel.cli.stages import Stage, run_stages
from worldmodel.common.errors import UserError
from worldmodel.common.locks import acquire_lock
from worldmodel.data import Dataset
from worldmodel.data.verification import verify

TINY = RoundsConfig.PRESETS["tiny"]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read(path: Path) -> dict:  # type: ignore[type-arg]
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RoundsConfig:
    """A finished loop of two rounds."""
    config = replace(TINY, out=tmp_path_factory.mktemp("loop") / "out")
    loop(config)
    return config


def test_a_round_is_made_of_ordinary_files(finished: RoundsConfig) -> None:
    first, second = (RoundFolder.of(finished.out, number) for number in (1, 2))
    for files in (first, second):
        verify(files.data)
        verbs = [read(run)["verb"] for run in (files.path / "data.run.json", files.policy / "run.json", files.real)]
        assert verbs == ["collect", "train policy", "eval policy"]
    assert [read(files.world / "run.json")["verb"] for files in (first, second)] == ["train world", "train prior"]
    assert not list(finished.out.rglob("*.parts")) + list(finished.out.rglob("*.training"))


def test_a_later_round_continues_world_and_policy_on_all_recordings(finished: RoundsConfig) -> None:
    first, second = (RoundFolder.of(finished.out, number) for number in (1, 2))
    with Dataset(second.data) as data:
        learned = next(policy for policy in data.header.policies if policy.params["kind"] == "file")
        assert (data.policies == learned.name).sum() == 8  # of 10; the rest is random
        assert learned.hash == digest(first.policy / "policy.zip")
        assert learned.params["epsilons"] == [0.0, 0.05, 0.2]
    with Dataset([first.data, second.data]) as data:
        identity = read(second.world / "training" / "run.json")
        assert identity["dataset"] == data.fingerprint
    assert identity["init_from"] == digest(first.world / "config.json")
    assert identity["config"]["train_prior"]["num_steps"] == 10, "half of the first round's"
    assert read(second.policy / "policy.json")["init_from"]["sha256"] == digest(first.policy / "policy.zip")
    seeds = [read(files.path / "data.run.json")["config"]["seed"] for files in (first, second)]
    assert seeds == [1, 2]


def test_the_table_has_the_figures_of_the_stages(finished: RoundsConfig) -> None:
    rows = read(finished.out / "rounds.json")["rounds"]
    frames = 0
    for row in rows:
        files = RoundFolder.of(finished.out, row["round"])
        with Dataset(files.data) as data:
            frames += data.num_steps + data.num_episodes
        real = read(files.real)
        assert real["config"]["first_seed"] == 2_000_000, "validation seeds"
        assert row["real_frames"] == frames
        assert row["real_return"]["mean"] == real["rows"][0]["return_mean"]
        assert row["random"]["mean"] == real["rows"][1]["return_mean"]
        assert row["dream_return"]["low"] <= row["dream_return"]["mean"] <= row["dream_return"]["high"]
        if row["real_return"]["mean"]:
            assert row["ratio"] == pytest.approx(row["dream_return"]["mean"] / row["real_return"]["mean"])
        assert row["minutes"] > 0
        assert row["metrics"] == {}
    assert [row["decisions"] for row in rows] == [128, 64]
    assert (finished.out / "rounds.png").stat().st_size > 1000
    assert len(format_rounds(rows).splitlines()) == 3


def test_finished_stages_are_skipped(finished: RoundsConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, lost = round_rows(finished), RoundFolder.of(finished.out, 2).real
    content = lost.read_text()
    run: list[int] = []

    def restore(config: RoundsConfig, number: int) -> None:
        lost.write_text(content)
        run.append(number)

    for name in ("_record", "_train_world", "_train_policy", "_test_in_dreams"):
        monkeypatch.setattr(loop_command, name, lambda *_: pytest.fail("runs a finished stage"))
    monkeypatch.setattr(loop_command, "_test_outside", restore)
    lost.unlink()
    (finished.out / "rounds.json").unlink()
    assert [row["real_return"] is None for row in round_rows(finished)] == [False, True]
    again = loop(finished)
    assert run == [2]
    assert [{**row, "minutes": 0} for row in again] == [{**row, "minutes": 0} for row in rows]
    done = [stage.product.exists() for stage in loop_stages(replace(finished, rounds=3))]
    assert done == [True] * 10 + [False] * 5, "a third round can be added"


def test_another_config_and_a_running_loop_are_refused(finished: RoundsConfig) -> None:
    with pytest.raises(UserError, match="test_episodes is 5, was 4"):
        loop(replace(finished, test_episodes=5))
    lock = acquire_lock(finished.out / "loop.lock", "")
    try:
        with pytest.raises(UserError, match="another process runs the loop"):
            loop(finished)
    finally:
        lock.release()


def test_a_mistake_leaves_the_directory_free(tmp_path: Path) -> None:
    config = replace(TINY, out=tmp_path / "loop", first=RecordingConfig("randm"))
    with pytest.raises(UserError, match="unknown policy 'randm'"):
        loop(config)
    assert not (config.out / "run.json").exists()
    for changes, message in (
        ({"later": RecordingConfig(mix="nonsense=0.2")}, "unknown policy 'nonsense'"),
        ({"metrics": "permanance"}, "unknown metric 'permanance'"),
    ):
        with pytest.raises(UserError, match=message):
            loop(replace(TINY, out=tmp_path / "other", **changes))  # type: ignore[arg-type]
        assert not (tmp_path / "other").exists(), "no stage has begun"


def test_the_environment_gives_the_defaults() -> None:
    take_cover = cli.parse(["loop", "--env", "doom/take-cover", "--rounds", "2", "--out", "x"])[1]
    assert take_cover == replace(RoundsConfig.PRESETS["doom/take-cover"], rounds=2, out=Path("x"))
    assert take_cover.first.policy == "periodic:6-60"
    assert cli.parse(["loop", "--preset", "toy", "--out", "x"])[1].env_options.size == (16, 16)
    other = cli.parse(["loop", "--env", "doom/health-gathering-supreme", "--out", "x"])[1]
    assert other.learner.reward == "health_change"
    assert other.first.policy == "sticky"


def test_a_later_round_is_shorter_and_has_another_seed() -> None:
    config = replace(RoundsConfig.PRESETS["doom/take-cover"], out=Path("x"), seed=3, later_world=0.25)
    first, later = config.world_of(1), config.world_of(2)
    assert (first.seed, later.seed) == (3001, 3002)
    assert later.train_prior.minutes == first.train_prior.minutes / 4
    assert later.train_prior.min_steps == first.train_prior.min_steps // 4
    assert (config.learner_of(1).minutes, config.learner_of(2).minutes) == (20, 10)
    for wrong in ({"rounds": 0}, {"later_world": 0.0}, {"seed": -1}, {"first": RecordingConfig()}):
        with pytest.raises(UserError, match="wanted"):
            replace(config, **wrong)  # type: ignore[arg-type]


def test_a_stage_that_fails_is_run_again_and_those_before_are_not(tmp_path: Path) -> None:
    calls: list[str] = []

    def stage(name: str, fail: bool = False) -> Stage:
        def work() -> None:
            calls.append(name)
            if fail:
                raise KeyboardInterrupt
            (tmp_path / name).touch()

        return Stage(name, "", tmp_path / name, work)

    times = tmp_path / "seconds.json"
    with pytest.raises(KeyboardInterrupt):
        run_stages([stage("a"), stage("b", fail=True), stage("c")], times)
    seconds = run_stages([stage("a"), stage("b"), stage("c")], times, lambda: calls.append("after"))
    assert calls == ["a", "b", "b", "after", "c", "after"]
    assert set(seconds) == set(read(times)) == {"a", "b", "c"}


def loop_command_in(folder: Path, *extra: str) -> list[str]:
    """The command of a loop in `folder`/out; world and policy are checkpointed often."""
    return [
        sys.executable, "-m", "worldmodel", "loop", "--preset", "tiny", "--out", "out",
        "--world.train-prior.checkpoint-seconds", "0", "--world.train-tokenizer.checkpoint-seconds", "0",
        "--learner.checkpoint-seconds", "0", "--workers", "2", *extra,
    ]  # fmt: skip


def is_killed(folder: Path, log: Path, seconds: float) -> bool:
    """Start the loop in `folder` and kill its process group some seconds after its first line; False if it ends."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            loop_command_in(folder), cwd=folder, stdout=file, stderr=file, start_new_session=True
        )
    try:
        while not log.stat().st_size and process.poll() is None:
            time.sleep(0.05)
        assert process.wait(seconds) == 0, log.read_text()
        return False
    except subprocess.TimeoutExpired:
        return True
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def without_times(table: Path) -> list[dict]:  # type: ignore[type-arg]
    return [{**row, "minutes": 0} for row in read(table)["rounds"]]


@pytest.mark.slow
def test_a_loop_killed_ten_times_gives_the_same_data_and_worlds(tmp_path: Path) -> None:
    """A policy is not continued bit for bit, so what follows from one is compared with a loop that has its policies."""
    plain, killed, whole = (tmp_path / name for name in ("plain", "killed", "whole"))
    plain.mkdir()
    killed.mkdir()
    begin = time.monotonic()
    assert not is_killed(plain, tmp_path / "log", 900)
    duration = time.monotonic() - begin
    rng, kills = random.Random(0), 0
    while kills < 10 and is_killed(killed, tmp_path / f"log-{kills}", rng.uniform(0, 0.35) * duration):
        kills += 1
    assert kills >= 4, "the loop was finished too early"
    assert not is_killed(killed, tmp_path / "log", 900)
    for number in (1, 2):
        policy = RoundFolder.of(Path("out"), number).policy
        shutil.copytree(killed / policy, whole / policy)
    assert not is_killed(whole, tmp_path / "log", 900)
    for folder, number in ((plain, 1), (whole, 1), (whole, 2)):
        a, b = (RoundFolder.of(path / "out", number) for path in (killed, folder))
        for name in ("data.h5", "world/config.json", "world/model.safetensors", "world/starts.safetensors"):
            assert digest(a.path / name) == digest(b.path / name), (folder, number, name)
    assert not list(killed.rglob("*.parts")) + list(killed.rglob("*.training"))
    assert without_times(killed / "out" / "rounds.json") == without_times(whole / "out" / "rounds.json")
