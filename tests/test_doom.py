"""Known defects of ViZDoom, each with its workaround."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vizdoom")

from worldmodel import envs
from worldmodel.common.errors import UserError
from worldmodel.envs import doom_processes
from worldmodel.envs.doom import MAX_LAUNCH_ATTEMPTS, DoomEnv, screen_resolution

linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")


@pytest.fixture(scope="module")
def cover() -> Any:
    env = DoomEnv("take_cover")
    yield env
    env.close()


def episode(env: DoomEnv, seed: int, steps: int) -> list[Any]:
    """(frame, reward, terminated, truncated, info) of each step, with actions sampled from the seed."""
    frame, info = env.reset(seed=seed)
    steps_taken: list[Any] = [(frame, 0.0, False, False, info)]
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        steps_taken.append(env.step(rng.integers(env.action_space.n)))
        if steps_taken[-1][2] or steps_taken[-1][3]:
            break
    return steps_taken


def same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(np.array_equal(x[0], y[0]) and x[1:] == y[1:] for x, y in zip(a, b, strict=True))


def test_death_repeats_the_last_valid_frame_and_marks_it(cover: DoomEnv) -> None:
    steps_taken = episode(cover, 7, 525)
    *_, before, last = steps_taken
    assert last[2:4] == (True, False)
    assert last[4]["frame_valid"] is False
    np.testing.assert_array_equal(last[0], before[0])
    assert last[0].max() > 0, "not ViZDoom's black picture"
    assert last[4]["variables"] == before[4]["variables"]
    assert all(t[4]["frame_valid"] for t in steps_taken[:-1])
    assert all(t[0].max() > 0 for t in steps_taken)
    assert sum(t[1] for t in steps_taken) == pytest.approx(4 * (len(steps_taken) - 1), abs=4)  # tics survived


def test_max_steps_truncates_with_a_valid_frame() -> None:
    """ViZDoom itself ends `basic` after 300 tics, with both flags and no frame. That limit is disabled."""
    env = DoomEnv("basic", max_steps=90)
    env.reset(seed=1)
    for step in range(1, 91):
        frame, _, terminated, truncated, info = env.step(0)
        assert not terminated
        assert truncated == (step == 90)
        assert info["frame_valid"]
    assert frame.max() > 0
    env.close()


def test_episodes_do_not_depend_on_earlier_episodes(cover: DoomEnv) -> None:
    first = episode(cover, 3, 80)
    assert same(episode(cover, 3, 80), first)  # after a finished episode
    for left_after in (0, 1, 30):  # after another, unfinished episode
        episode(cover, 50 + left_after, left_after)
        assert same(episode(cover, 3, 80), first)
    cover.close()  # in another engine
    assert same(episode(cover, 3, 80), first)
    assert not same(episode(cover, 4, 80), first)


def test_episodes_with_the_status_bar_are_reproducible() -> None:
    env = DoomEnv("defend_the_center", hud=True, size=(192, 256))  # every pixel of the screen
    first = episode(env, 7, 40)
    episode(env, 8, 25)
    assert same(episode(env, 7, 40), first)
    without_hud = DoomEnv("defend_the_center", size=(192, 256))
    assert not np.array_equal(without_hud.reset(seed=7)[0][170:], first[0][0][170:])
    env.close()
    without_hud.close()


def test_labels_match_the_effect_of_the_actions(cover: DoomEnv) -> None:
    import vizdoom

    assert cover.meta.action_labels == ("noop", "right", "left")
    cover.reset(seed=0)
    game = cover._inner.game
    where = []
    for label in ("right", "left"):
        cover.reset(seed=0)
        for _ in range(5):
            cover.step(cover.meta.action_labels.index(label))
        where.append(game.get_game_variable(vizdoom.GameVariable.POSITION_Y))
    cover.reset(seed=0)
    start = game.get_game_variable(vizdoom.GameVariable.POSITION_Y)
    facing = np.cos(np.deg2rad(game.get_game_variable(vizdoom.GameVariable.ANGLE)))
    assert (where[0] - start) * facing < 0 < (where[1] - start) * facing


def test_screen_resolutions_are_multiples_of_the_frame_where_possible() -> None:
    import vizdoom

    names = list(vizdoom.ScreenResolution.__members__)
    wanted = {(64, 64): "256X192", (96, 128): "256X192", (128, 128): "512X384", (60, 80): "320X240"}
    wanted |= {(120, 160): "320X240", (84, 84): "256X192", (192, 256): "512X384"}
    for size, resolution in wanted.items():
        assert screen_resolution(size, names) == "RES_" + resolution


def test_crop_keeps_the_named_rows(cover: DoomEnv) -> None:
    cropped = DoomEnv("take_cover", crop=(20, 52, 0, 64))
    np.testing.assert_array_equal(cropped.reset(seed=2)[0], cover.reset(seed=2)[0][20:52])
    cropped.close()


def test_working_directory_is_neither_written_nor_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "_vizdoom.cfg").write_text("screen_resolution = RES_640X480\n")  # the library would read it
    env = DoomEnv("take_cover")
    env.reset(seed=0)
    assert env._inner.game.get_screen_width() == 256
    env.step(0)
    env.close()
    assert os.listdir(tmp_path) == ["_vizdoom.cfg"]
    assert Path.cwd() == tmp_path


def test_an_engine_that_dies_at_start_is_launched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    launch, failures = doom_processes.launch, [2]

    def flaky(game: Any, start: Any) -> None:
        if failures[0] > 0:
            failures[0] -= 1
            raise RuntimeError("Controlled ViZDoom instance exited unexpectedly.")
        launch(game, start)

    monkeypatch.setattr(doom_processes, "launch", flaky)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    env = DoomEnv("take_cover")
    again = episode(env, 3, 10)
    env.close()
    assert failures == [0]
    assert same(episode(env, 3, 10), again)
    env.close()
    failures[0] = MAX_LAUNCH_ATTEMPTS
    with pytest.raises(UserError, match=f"died at start {MAX_LAUNCH_ATTEMPTS} times"):
        env.reset(seed=3)


@linux
def test_an_engine_that_dies_during_an_episode_raises_and_is_replaced(cover: DoomEnv) -> None:
    first = episode(cover, 3, 5)
    (pid,) = [p for p in engines_of(doom_processes.run_token()) if parent_of(p) == os.getpid()]
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.1)
    with pytest.raises(RuntimeError, match="ended during an episode"):
        cover.step(0)
    with pytest.raises(UserError, match="call reset"):
        cover.step(0)
    assert same(episode(cover, 3, 5), first)


# --- orphans -----------------------------------------------------------------------------------------------


def engines_of(token: str) -> list[int]:
    """Running engine processes of a run, read from /proc without the code under test."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            in_run = f"{doom_processes.RUN}={token}".encode() in (path / "environ").read_bytes().split(b"\0")
            if in_run and os.path.basename(os.readlink(path / "exe")) == "vizdoom":
                found.append(int(path.name))
        except OSError:
            continue
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def shared_of(pid: int) -> set[str]:
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {os.path.basename(line.split()[-1]) for line in lines if "/dev/shm/" in line}


def unfinished_launch(records: Path, token: str, when: float) -> None:
    """The launch record of a process that was killed during a launch."""
    record = {"event": "launch", "time": when, "scratch": "/none"}
    (records / f"engines-{token}-1.0.jsonl").write_text(json.dumps(record) + "\n")


PLAYER = """
import sys, time
from worldmodel import envs
from worldmodel.common.signals import exit_on_sigterm
from worldmodel.envs import doom_processes
exit_on_sigterm()
doom_processes.set_run(sys.argv[1], sys.argv[2] or None)
env = envs.make("doom/take-cover")
env.reset(seed=0)
print("ready", flush=True)
while True:
    *_, terminated, truncated, _ = env.step(0)
    if terminated or truncated:
        env.reset()
    time.sleep(0.01)
"""


def player(token: str, records: Path | str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PLAYER, token, str(records)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@linux
def test_sweep_removes_only_orphans_of_its_run(tmp_path: Path) -> None:
    own, other = f"own-{os.getpid()}", f"other-{os.getpid()}"
    killed, living, neighbour = player(own, tmp_path), player(own, tmp_path), player(other, tmp_path)
    try:
        (orphan,) = [p for p in engines_of(own) if parent_of(p) == killed.pid]
        left = shared_of(orphan)
        assert len(left) == 3
        killed.kill()  # not waited for: a zombie counts as dead
        time.sleep(0.3)
        assert orphan in engines_of(own), "SIGKILL leaves the engine running"

        swept = doom_processes.sweep(own, tmp_path)
        assert swept.engines == (orphan,)
        assert set(swept.shared) == left
        assert len(swept.folders) == 1
        assert not any(Path("/dev/shm", name).exists() for name in left)
        assert orphan not in engines_of(own)
        for process, token in ((living, own), (neighbour, other)):
            assert process.poll() is None
            (engine,) = engines_of(token)
            assert all(Path("/dev/shm", name).exists() for name in shared_of(engine))
        assert doom_processes.sweep(own, tmp_path) == doom_processes.SweepResult()

        neighbour.kill()
        neighbour.wait()
        assert doom_processes.sweep(own, tmp_path) == doom_processes.SweepResult()
        assert len(engines_of(other)) == 1, "orphans of another run are kept"

        living.terminate()  # SIGTERM closes the engine
        assert living.wait(10) == 143
        assert engines_of(own) == []
        assert doom_processes.sweep(own, tmp_path) == doom_processes.SweepResult()
    finally:
        for process in (killed, living, neighbour):
            process.kill()
            process.wait()
        doom_processes.sweep(own, tmp_path)
        doom_processes.sweep(other, tmp_path)


@linux
def test_shared_memory_of_a_dead_engine_is_found_by_its_launch_record(tmp_path: Path) -> None:
    token = f"gone-{os.getpid()}"
    process = player(token, tmp_path)
    (engine,) = engines_of(token)
    left = shared_of(engine)
    process.kill()
    process.wait()
    os.kill(engine, signal.SIGKILL)
    time.sleep(0.2)
    unrelated = Path("/dev/shm/ViZDoomSMunrelated00")
    unrelated.write_bytes(b"x")
    try:
        assert all(Path("/dev/shm", name).exists() for name in left)
        swept = doom_processes.sweep(token, tmp_path)
        assert swept.engines == ()
        assert set(swept.shared) == left
        assert unrelated.exists()
        assert list(tmp_path.iterdir()) == []
    finally:
        unrelated.unlink()


@linux
def test_files_of_an_unfinished_launch_are_removed(tmp_path: Path) -> None:
    """Killed before the instance id was recorded: unmapped files of the launch window are removed."""
    token = f"window-{os.getpid()}"
    code = (
        "import os, signal, sys; from worldmodel.envs import doom_processes\n"
        "doom_processes.set_run(sys.argv[1], sys.argv[2])\n"
        "def start(scratch):\n"
        "    open('/dev/shm/ViZDoomMQDoomwindow0000', 'wb').close()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "doom_processes.launch(object(), start)"
    )
    old = Path("/dev/shm/ViZDoomSMolder00000")
    old.write_bytes(b"x")
    os.utime(old, (time.time() - 60, time.time() - 60))
    try:
        subprocess.run([sys.executable, "-c", code, token, str(tmp_path)])
        swept = doom_processes.sweep(token, tmp_path)
        assert "ViZDoomMQDoomwindow0000" in swept.shared
        assert len(swept.folders) == 1
        assert old.exists(), "from before the launch"
    finally:
        old.unlink()
        Path("/dev/shm/ViZDoomMQDoomwindow0000").unlink(missing_ok=True)


@linux
def test_files_that_a_running_process_maps_are_kept(cover: DoomEnv, tmp_path: Path) -> None:
    """An unfinished launch of a dead process at the same time: files of the running engine are in its window."""
    cover.close()
    unfinished_launch(tmp_path, "dead", time.time())
    cover.reset(seed=0)
    (engine,) = [p for p in engines_of(doom_processes.run_token()) if parent_of(p) == os.getpid()]
    mapped = shared_of(engine)
    swept = doom_processes.sweep("dead", tmp_path)
    assert not mapped & set(swept.shared)
    assert all(Path("/dev/shm", name).exists() for name in mapped)


@linux
def test_a_process_that_exits_normally_leaves_no_files(tmp_path: Path) -> None:
    code = (
        "import sys; from worldmodel import envs; from worldmodel.envs import doom_processes\n"
        "doom_processes.set_run(sys.argv[1], sys.argv[2])\n"
        "env = envs.make('doom/take-cover'); env.reset(seed=0)\n"
        "print(env._inner.game.get_instance_id(), env._inner.game.get_doom_config_path())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "ends", str(tmp_path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0
    assert done.stderr == ""
    instance, config = done.stdout.split()
    assert not list(Path("/dev/shm").glob(f"*{instance}"))
    assert not Path(config).parent.exists()
    assert doom_processes.sweep("ends", tmp_path) == doom_processes.SweepResult()


@pytest.mark.slow
def test_sweep_during_launches_of_another_run_has_no_effect_on_them(tmp_path: Path) -> None:
    """Twenty launches of one run while another run repeatedly sweeps an unfinished launch."""
    import threading

    stop, token = threading.Event(), f"busy-{os.getpid()}"

    def sweep() -> None:
        while not stop.is_set():
            unfinished_launch(tmp_path, token, time.time() - 5)
            doom_processes.sweep(token, tmp_path)

    thread = threading.Thread(target=sweep)
    thread.start()
    try:
        for seed in range(20):
            env = DoomEnv("take_cover")
            env.reset(seed=seed)
            env.step(0)
            env.close()
    finally:
        stop.set()
        thread.join()


def test_every_shipped_scenario_can_be_made_or_is_refused() -> None:
    import vizdoom

    refused = set()
    for name in (c.removesuffix(".cfg") for c in vizdoom.configs):
        try:
            env = envs.make("doom/" + name.replace("_", "-"))
        except UserError:
            refused.add(name)
        else:
            assert "health" in env.meta.variables
            assert env.meta.action_labels[0] == "noop"
    assert refused == {"cig", "deathmatch", "multi", "oblige"}
