"""What ViZDoom does that bites, each with its remedy."""

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
from worldmodel.envs import doom_processes as engines
from worldmodel.envs.doom import ATTEMPTS, DoomEnv, screen_resolution

linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")


@pytest.fixture(scope="module")
def cover() -> Any:
    world = DoomEnv("take_cover")
    yield world
    world.close()


def episode(world: DoomEnv, seed: int, steps: int) -> list[Any]:
    """Frames, rewards, ends and infos with actions drawn from the seed."""
    frame, info = world.reset(seed=seed)
    told: list[Any] = [(frame, 0.0, False, False, info)]
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        told.append(world.step(rng.integers(world.action_space.n)))
        if told[-1][2] or told[-1][3]:
            break
    return told


def same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(np.array_equal(x[0], y[0]) and x[1:] == y[1:] for x, y in zip(a, b, strict=True))


def test_death_repeats_the_last_real_frame_and_says_so(cover: DoomEnv) -> None:
    told = episode(cover, 7, 525)
    *_, before, last = told
    assert last[2:4] == (True, False)
    assert last[4]["frame_valid"] is False
    np.testing.assert_array_equal(last[0], before[0])
    assert last[0].max() > 0, "not ViZDoom's black picture"
    assert last[4]["variables"] == before[4]["variables"]
    assert all(t[4]["frame_valid"] for t in told[:-1])
    assert all(t[0].max() > 0 for t in told)
    assert sum(t[1] for t in told) == pytest.approx(4 * (len(told) - 1), abs=4)  # tics survived


def test_a_timeout_is_ours_and_has_its_frame() -> None:
    """ViZDoom ends `basic` after 300 tics by itself, with both flags and no frame; we go past that."""
    world = DoomEnv("basic", max_steps=90)
    world.reset(seed=1)
    for step in range(1, 91):
        frame, _, terminated, truncated, info = world.step(0)
        assert not terminated
        assert truncated == (step == 90)
        assert info["frame_valid"]
    assert frame.max() > 0
    world.close()


def test_episodes_depend_on_nothing_before_them(cover: DoomEnv) -> None:
    first = episode(cover, 3, 80)
    assert same(episode(cover, 3, 80), first)  # after its end
    for left_after in (0, 1, 30):  # after another, left in the middle
        episode(cover, 50 + left_after, left_after)
        assert same(episode(cover, 3, 80), first)
    cover.close()  # in another engine
    assert same(episode(cover, 3, 80), first)
    assert not same(episode(cover, 4, 80), first)


def test_episodes_are_exact_with_the_status_bar_too() -> None:
    world = DoomEnv("defend_the_center", hud=True, size=(192, 256))  # every pixel of the screen
    first = episode(world, 7, 40)
    episode(world, 8, 25)
    assert same(episode(world, 7, 40), first)
    plain = DoomEnv("defend_the_center", size=(192, 256))
    assert not np.array_equal(plain.reset(seed=7)[0][170:], first[0][0][170:])
    world.close()
    plain.close()


def test_labels_are_what_the_actions_do(cover: DoomEnv) -> None:
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


def test_screens_are_cut_into_exact_boxes_where_they_can() -> None:
    import vizdoom

    names = list(vizdoom.ScreenResolution.__members__)
    wanted = {(64, 64): "256X192", (96, 128): "256X192", (128, 128): "512X384", (60, 80): "320X240"}
    wanted |= {(120, 160): "320X240", (84, 84): "256X192", (192, 256): "512X384"}
    for size, resolution in wanted.items():
        assert screen_resolution(size, names) == "RES_" + resolution


def test_a_crop_keeps_the_rows_it_names(cover: DoomEnv) -> None:
    cropped = DoomEnv("take_cover", crop=(20, 52, 0, 64))
    np.testing.assert_array_equal(cropped.reset(seed=2)[0], cover.reset(seed=2)[0][20:52])
    cropped.close()


def test_nothing_is_written_or_read_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "_vizdoom.cfg").write_text("screen_resolution = RES_640X480\n")  # the library would obey it
    world = DoomEnv("take_cover")
    world.reset(seed=0)
    assert world._inner.game.get_screen_width() == 256
    world.step(0)
    world.close()
    assert os.listdir(tmp_path) == ["_vizdoom.cfg"]
    assert Path.cwd() == tmp_path


def test_an_engine_that_dies_at_start_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    launch, failures = engines.launch, [2]

    def flaky(game: Any, start: Any) -> None:
        if failures[0] > 0:
            failures[0] -= 1
            raise RuntimeError("Controlled ViZDoom instance exited unexpectedly.")
        launch(game, start)

    monkeypatch.setattr(engines, "launch", flaky)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    world = DoomEnv("take_cover")
    again = episode(world, 3, 10)
    world.close()
    assert failures == [0]
    assert same(episode(world, 3, 10), again)
    world.close()
    failures[0] = ATTEMPTS
    with pytest.raises(UserError, match=f"died at start {ATTEMPTS} times"):
        world.reset(seed=3)


@linux
def test_an_engine_that_dies_in_mid_episode_is_told_and_replaced(cover: DoomEnv) -> None:
    first = episode(cover, 3, 5)
    (pid,) = [p for p in engines_of(engines.run_token()) if parent(p) == os.getpid()]
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.1)
    with pytest.raises(RuntimeError, match="ended in mid-episode"):
        cover.step(0)
    with pytest.raises(UserError, match="call reset"):
        cover.step(0)
    assert same(episode(cover, 3, 5), first)


# --- orphans -----------------------------------------------------------------------------------------------


def engines_of(token: str) -> list[int]:
    """Living engine processes of a run, by what /proc says, not by our own code."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"{engines.RUN}={token}".encode() in (path / "environ").read_bytes().split(b"\0")
            if ours and os.path.basename(os.readlink(path / "exe")) == "vizdoom":
                found.append(int(path.name))
        except OSError:
            continue
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def shared_of(pid: int) -> set[str]:
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {os.path.basename(line.split()[-1]) for line in lines if "/dev/shm/" in line}


def unfinished_launch(marks: Path, token: str, when: float) -> None:
    """The marks of a process that was killed while it launched an engine."""
    record = {"event": "launch", "time": when, "scratch": "/none"}
    (marks / f"engines-{token}-1.0.jsonl").write_text(json.dumps(record) + "\n")


PLAYER = """
import sys, time
from worldmodel import envs
from worldmodel.envs import doom_processes as engines
engines.close_on_sigterm()
engines.set_run(sys.argv[1], sys.argv[2] or None)
world = envs.make("doom/take-cover")
world.reset(seed=0)
print("ready", flush=True)
while True:
    *_, terminated, truncated, _ = world.step(0)
    if terminated or truncated:
        world.reset()
    time.sleep(0.01)
"""


def player(token: str, marks: Path | str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PLAYER, token, str(marks)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@linux
def test_a_sweep_takes_the_orphans_of_its_run_and_nothing_else(tmp_path: Path) -> None:
    mine, other = f"mine-{os.getpid()}", f"other-{os.getpid()}"
    killed, living, neighbour = player(mine, tmp_path), player(mine, tmp_path), player(other, tmp_path)
    try:
        (orphan,) = [p for p in engines_of(mine) if parent(p) == killed.pid]
        left = shared_of(orphan)
        assert len(left) == 3
        killed.kill()  # not waited for: a zombie is dead too
        time.sleep(0.3)
        assert orphan in engines_of(mine), "SIGKILL leaves the engine behind: this is what the sweep is for"

        swept = engines.sweep(mine, tmp_path)
        assert swept.engines == (orphan,)
        assert set(swept.shared) == left
        assert len(swept.folders) == 1
        assert not any(Path("/dev/shm", name).exists() for name in left)
        assert orphan not in engines_of(mine)
        for process, token in ((living, mine), (neighbour, other)):
            assert process.poll() is None
            (engine,) = engines_of(token)
            assert all(Path("/dev/shm", name).exists() for name in shared_of(engine))
        assert engines.sweep(mine, tmp_path) == engines.Removed()

        neighbour.kill()
        neighbour.wait()
        assert engines.sweep(mine, tmp_path) == engines.Removed()
        assert len(engines_of(other)) == 1, "another run's orphans are its own to sweep"

        living.terminate()  # SIGTERM closes the engine: nothing is left to sweep
        assert living.wait(10) == 143
        assert engines_of(mine) == []
        assert engines.sweep(mine, tmp_path) == engines.Removed()
    finally:
        for process in (killed, living, neighbour):
            process.kill()
            process.wait()
        engines.sweep(mine, tmp_path)
        engines.sweep(other, tmp_path)


@linux
def test_shared_memory_without_its_engine_is_found_by_its_marks(tmp_path: Path) -> None:
    token = f"gone-{os.getpid()}"
    process = player(token, tmp_path)
    (engine,) = engines_of(token)
    left = shared_of(engine)
    process.kill()
    process.wait()
    os.kill(engine, signal.SIGKILL)
    time.sleep(0.2)
    stranger = Path("/dev/shm/ViZDoomSMstranger00")
    stranger.write_bytes(b"x")
    try:
        assert all(Path("/dev/shm", name).exists() for name in left)
        swept = engines.sweep(token, tmp_path)
        assert swept.engines == ()
        assert set(swept.shared) == left
        assert stranger.exists()
        assert list(tmp_path.iterdir()) == []
    finally:
        stranger.unlink()


@linux
def test_files_of_a_launch_that_never_finished(tmp_path: Path) -> None:
    """Killed between the launch and the engine's name: what was made meanwhile and nobody maps goes."""
    token = f"window-{os.getpid()}"
    code = (
        "import os, signal, sys; from worldmodel.envs import doom_processes as engines\n"
        "engines.set_run(sys.argv[1], sys.argv[2])\n"
        "def start(scratch):\n"
        "    open('/dev/shm/ViZDoomMQDoomwindow0000', 'wb').close()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "engines.launch(object(), start)"
    )
    old = Path("/dev/shm/ViZDoomSMolder00000")
    old.write_bytes(b"x")
    os.utime(old, (time.time() - 60, time.time() - 60))
    try:
        subprocess.run([sys.executable, "-c", code, token, str(tmp_path)])
        swept = engines.sweep(token, tmp_path)
        assert "ViZDoomMQDoomwindow0000" in swept.shared
        assert len(swept.folders) == 1
        assert old.exists(), "from before the launch"
    finally:
        old.unlink()
        Path("/dev/shm/ViZDoomMQDoomwindow0000").unlink(missing_ok=True)


@linux
def test_files_that_a_living_process_maps_stay(cover: DoomEnv, tmp_path: Path) -> None:
    """An unfinished launch of a dead process at the very time of ours: our files are in its window."""
    cover.close()
    unfinished_launch(tmp_path, "dead", time.time())
    cover.reset(seed=0)
    (engine,) = [p for p in engines_of(engines.run_token()) if parent(p) == os.getpid()]
    ours = shared_of(engine)
    swept = engines.sweep("dead", tmp_path)
    assert not ours & set(swept.shared)
    assert all(Path("/dev/shm", name).exists() for name in ours)


@linux
def test_a_process_that_ends_normally_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from worldmodel import envs; from worldmodel.envs import doom_processes as engines\n"
        "engines.set_run(sys.argv[1], sys.argv[2])\n"
        "world = envs.make('doom/take-cover'); world.reset(seed=0)\n"
        "print(world._inner.game.get_instance_id(), world._inner.game.get_doom_config_path())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "ends", str(tmp_path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0
    assert done.stderr == ""
    instance, config = done.stdout.split()
    assert not list(Path("/dev/shm").glob(f"*{instance}"))
    assert not Path(config).parent.exists()
    assert engines.sweep("ends", tmp_path) == engines.Removed()


@pytest.mark.slow
def test_a_sweep_beside_launches_of_another_run_harms_none(tmp_path: Path) -> None:
    """Twenty launches of one run while another run sweeps an unfinished launch again and again."""
    import threading

    stop, token = threading.Event(), f"busy-{os.getpid()}"

    def sweep() -> None:
        while not stop.is_set():
            unfinished_launch(tmp_path, token, time.time() - 5)
            engines.sweep(token, tmp_path)

    thread = threading.Thread(target=sweep)
    thread.start()
    try:
        for seed in range(20):
            world = DoomEnv("take_cover")
            world.reset(seed=seed)
            world.step(0)
            world.close()
    finally:
        stop.set()
        thread.join()


def test_every_shipped_scenario_is_made_or_refused_by_name() -> None:
    import vizdoom

    refused = set()
    for name in (c.removesuffix(".cfg") for c in vizdoom.configs):
        try:
            world = envs.make("doom/" + name.replace("_", "-"))
        except UserError:
            refused.add(name)
        else:
            assert "health" in world.meta.variables
            assert world.meta.action_labels[0] == "noop"
    assert refused == {"cig", "deathmatch", "multi", "oblige"}
