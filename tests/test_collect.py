"""Recording: the file is a function of (env, policy, seed, episodes), whatever the processes and interruptions."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel import envs
from worldmodel.cli import command_line as cli
from worldmodel.collect import record
from worldmodel.collect.collect_command import collect
from worldmodel.collect.collect_config import Collect
from worldmodel.collect.policies import PeriodicPolicy
from worldmodel.collect.policy_specs import PolicySpec, choose_policy, default_cycle, mix_policies, parse_policy
from worldmodel.collect.rollout import episode_seeds, play
from worldmodel.common.errors import UserError
from worldmodel.common.spaces import Box, Discrete, MultiBinary, MultiDiscrete, check_actions
from worldmodel.data.dataset import Dataset
from worldmodel.data.verification import verify


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def command(out: Path, *extra: str, env: str = "toy", episodes: int = 60) -> list[str]:
    return [
        sys.executable, "-m", "worldmodel", "collect", "--env", env, "--out", str(out), "--episodes", str(episodes),
        "--policy", "sticky", "--mix", "random=0.3", "--epsilon", "0.05", *extra,
    ]  # fmt: skip


def run_here(arguments: list[str]) -> None:
    """Run a command in this process, which takes less time than to start another; its workers are processes."""
    cli.main(arguments[3:])


def engines_of(token: str) -> list[int]:
    """Running engines with a run's token in their process environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if f"WORLDMODEL_RUN={token}".encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
    return found


def running(pattern: str) -> list[int]:
    """Running processes whose command line contains the pattern."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if pattern in (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def abandoned_memory() -> set[str]:
    """ViZDoom's files in /dev/shm that no running process maps: engines of other tests do not count."""
    mapped = ""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                mapped += (folder / "maps").read_text()
    return {p.name for p in Path("/dev/shm").glob("ViZDoom*") if p.name not in mapped}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy recording by one process without interruption."""
    out = tmp_path_factory.mktemp("reference") / "data.h5"
    run_here(command(out, "--workers", "1"))
    return out


def test_a_recording_is_complete(reference: Path) -> None:
    verify(reference)
    with Dataset(reference) as data:
        assert data.num_episodes == 60
        assert set(data.policies) == {"sticky", "random"}
        assert abs(list(data.policies).count("random") - 18) <= 2
        episode = data.episode(7)
        env_seed, _ = episode_seeds(0, 7)
        assert episode.seed == env_seed
        assert bool(episode.terminations[-1] or episode.truncations[-1])
        assert not (episode.terminations | episode.truncations)[:-1].any()
    assert json.loads(reference.with_suffix(".run.json").read_text())["config"]["episodes"] == 60
    assert not reference.with_name("data.h5.parts").exists()


@pytest.mark.parametrize("workers", [2, 3])
def test_file_bytes_do_not_depend_on_the_number_of_processes(workers: int, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "data.h5"
    run_here(command(out, "--workers", str(workers)))
    assert digest(out) == digest(reference)


def test_the_same_command_returns_at_once_and_another_is_refused(
    reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digest(reference)
    cli.main(command(reference)[3:])
    assert "recorded before" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_:
        cli.main(command(reference, "--seed", "5")[3:])
    assert exit_.value.code == 2
    assert "seed is 5, was 0" in capsys.readouterr().err
    assert digest(reference) == before


def test_shards_are_slices_of_the_whole_recording(reference: Path, tmp_path: Path) -> None:
    for i in range(2):
        run_here(command(tmp_path / "d.h5", "--shard", f"{i}/2", "--workers", "1"))
    parts = [tmp_path / f"d.{i}-of-2.h5" for i in range(2)]
    with (
        Dataset(reference) as whole,
        Dataset(parts[0]) as even,
        Dataset(parts[1]) as odd,
        Dataset(parts) as both,
    ):
        assert even.num_episodes == odd.num_episodes == 30
        assert both.num_episodes == 60
        for e in (0, 1, 31, 58):
            expected, actual = whole.episode(e), (even, odd)[e % 2].episode(e // 2)
            assert expected.index == actual.index == e
            np.testing.assert_array_equal(expected.frames, actual.frames)
            np.testing.assert_array_equal(expected.actions, actual.actions)


def stop_and_continue(
    out: Path, arguments: list[str], delay: float | None, target: str, signum: int, rng: random.Random
) -> None:
    """Start a recording, kill its supervisor, a worker or all of them, wait, and run the command to its end.

    Without a delay the kill comes after the first episodes were written, and the recording must be unfinished then.
    """
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if delay is None:
        parts = out.with_name(out.name + ".parts")
        while sum(p.stat().st_size for p in parts.glob("part-*.bin")) < 100_000:
            assert process.poll() is None, "it finished before it could be killed"
            time.sleep(0.01)
    else:
        time.sleep(delay)
    workers = running(f"{out}.parts")
    if target == "worker" and workers:
        os.kill(rng.choice(workers), signum)
        stderr = process.communicate(timeout=240)[1].decode()
        assert process.returncode == 0, "the supervisor replaces the worker"
        assert delay is not None or "is restarted" in stderr
    else:
        for pid in [process.pid, *(workers if target == "all" else [])]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)
        process.communicate(timeout=60)
        assert delay is not None or not out.exists()
        deadline = time.monotonic() + 20
        while running(f"{out}.parts") and time.monotonic() < deadline:
            time.sleep(0.1)
        assert running(f"{out}.parts") == [], "workers outlive their supervisor"
    plan = out.with_name(out.name + ".parts") / "plan.json"
    token = json.loads(plan.read_text())["token"] if plan.exists() else None
    run_here(arguments)
    assert token is None or engines_of(token) == [], "engines outlive their run"


SMALL, NUM_SMALL = ("--size", "16", "16"), 200  # many episodes with small frames


@pytest.fixture(scope="module")
def small_reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("small") / "data.h5"
    run_here(command(out, "--workers", "1", *SMALL, episodes=NUM_SMALL))
    return digest(out)


@pytest.mark.parametrize(("target", "signum"), [("supervisor", signal.SIGTERM), ("all", signal.SIGKILL)])
def test_killed_and_continued_gives_the_same_bytes(
    target: str, signum: int, small_reference: str, tmp_path: Path
) -> None:
    out = tmp_path / "data.h5"
    stop_and_continue(out, command(out, *SMALL, episodes=NUM_SMALL), None, target, signum, random.Random(0))
    assert digest(out) == small_reference
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.h5", "data.run.json"]


def test_interrupted_sealing_leaves_no_partial_file(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import worldmodel.collect.recorder as recorder

    out = tmp_path / "a.h5"

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recorder, "seal", interrupt)
        with pytest.raises(KeyboardInterrupt):
            record("toy", "random", out, episodes=4, progress=False)
    assert not out.exists()
    record("toy", "random", out, episodes=4, progress=False)
    record("toy", "random", tmp_path / "b.h5", episodes=4, progress=False)
    assert digest(out) == digest(tmp_path / "b.h5")


@pytest.mark.parametrize("function", ["worldmodel.data.sealing._write", "shutil.rmtree"])
def test_killed_while_sealing_leaves_no_partial_file(function: str, reference: Path, tmp_path: Path) -> None:
    """Killed after the temporary file is written, and before the working folder is removed."""
    out = tmp_path / "data.h5"
    module, name = function.rsplit(".", 1)
    code = (
        f"import os, sys, signal, {module} as module, worldmodel.cli.command_line as cli\n"
        f"work = module.{name}\n"
        "def killed(path, *rest):\n"
        f"    {'work(path, *rest)' if name == '_write' else 'pass'}\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"module.{name} = killed\n"
        "cli.main(sys.argv[1:])"
    )
    result = subprocess.run([sys.executable, "-c", code, *command(out)[3:]], capture_output=True, timeout=120)
    assert result.returncode == -signal.SIGKILL
    assert out.exists() == (name == "rmtree")
    assert {p.name for p in tmp_path.iterdir()} - {"data.h5"} == {"data.h5.parts", "data.run.json"}
    run_here(command(out))
    assert digest(out) == digest(reference)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.h5", "data.run.json"]


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(20))
def test_killed_at_random_moments(trial: int, small_reference: str, tmp_path: Path) -> None:
    rng = random.Random(trial)
    out = tmp_path / "data.h5"
    target, signum = rng.choice(["supervisor", "worker", "all"]), rng.choice([signal.SIGKILL, signal.SIGTERM])
    stop_and_continue(out, command(out, *SMALL, episodes=NUM_SMALL), rng.uniform(0.2, 4.0), target, signum, rng)
    assert digest(out) == small_reference
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.h5", "data.run.json"]


DOOM = {"env": "doom/take-cover", "episodes": 12}


@pytest.fixture(scope="module")
def doom_reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("doom") / "data.h5"
    run_here(command(out, "--workers", "1", "--max-steps", "60", **DOOM))
    with Dataset(out) as data:
        assert not all(data.episode(e).frame_valid[-1] for e in range(12)), "some die within 60 steps"
    return digest(out)


def kill_doom_recording(
    doom_reference: str, folder: Path, delay: float | None, target: str, signum: int, rng: random.Random
) -> None:
    out = folder / "data.h5"
    before = abandoned_memory()
    stop_and_continue(out, command(out, "--max-steps", "60", **DOOM), delay, target, signum, rng)
    assert digest(out) == doom_reference
    assert running(f"{out}.parts") == []
    deadline = time.monotonic() + 30  # a test in another process may orphan engines on purpose
    while not abandoned_memory() <= before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert abandoned_memory() <= before, "no files of this run in /dev/shm"
    assert sorted(p.name for p in folder.iterdir()) == ["data.h5", "data.run.json"]


def test_vizdoom_killed_and_continued(doom_reference: str, tmp_path: Path) -> None:
    kill_doom_recording(doom_reference, tmp_path, None, "all", signal.SIGKILL, random.Random(1))


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(20))
def test_vizdoom_killed_at_random_moments(trial: int, doom_reference: str, tmp_path: Path) -> None:
    rng = random.Random(100 + trial)
    target, signum = rng.choice(["supervisor", "worker", "all"]), rng.choice([signal.SIGKILL, signal.SIGTERM])
    kill_doom_recording(doom_reference, tmp_path, rng.uniform(0.3, 4.0), target, signum, rng)


def test_a_second_recorder_and_a_disk_that_is_too_small_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worldmodel.collect.recording_folder import RecordingFolder

    with (
        RecordingFolder(tmp_path / "a.h5.parts").locked(),
        pytest.raises(UserError, match="another process is recording"),
    ):
        record("toy", "random", tmp_path / "a.h5", episodes=2, progress=False)
    with pytest.raises(UserError, match="free"):
        record("toy", "random", tmp_path / "b.h5", episodes=10**8, progress=False)
    assert not (tmp_path / "b.h5").exists()


def test_a_full_disk_raises_a_sentence_and_the_recording_continues_later(reference: Path, tmp_path: Path) -> None:
    """Files are limited to 1 MB here; writes fail as on a full disk."""
    import resource

    out = tmp_path / "data.h5"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))

    result = subprocess.run(command(out), preexec_fn=limit, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2, result.stderr
    message = result.stderr.splitlines()[-1]
    assert "could not be written" in message
    assert "run the same command again" in message
    assert "Traceback" not in result.stderr
    assert not out.exists()
    run_here(command(out))
    assert digest(out) == digest(reference)


def test_a_recording_without_space_for_its_first_files_continues_later(tmp_path: Path) -> None:
    """Files are limited to 100 bytes: run.json or plan.json cannot be written."""
    import resource

    small = {"episodes": 2, "size": 16, "progress": False}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for workers in (1, 2):
        out = tmp_path / f"{workers}.h5"
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            with pytest.raises(UserError, match=r"cannot write .*run the same command again"):
                record("toy", "random", out, workers=workers, **small)
            with pytest.raises(UserError, match=r"cannot write .*run the same command again"):
                collect(Collect(tmp_path / "verb.h5", "toy", episodes=2))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        record("toy", "random", out, workers=workers, **small)
        assert not list(tmp_path.glob(".*"))


def test_temporary_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    names = [".data.run.{}-23d168.tmp.json", ".data.h5.{}.probe", ".other.run.{}-23d168.tmp.json"]
    for name in names:
        for pid in (killed.pid, os.getppid()):
            (tmp_path / name.format(pid)).touch()
    collect(Collect(tmp_path / "data.h5", "toy", episodes=2))
    kept = {name.format(os.getppid()) for name in names} | {names[2].format(killed.pid)}
    assert {p.name for p in tmp_path.iterdir()} == {"data.h5", "data.run.json", *kept}


def test_an_out_path_that_cannot_be_written_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as exit_:
        cli.main(command(tmp_path / "file" / "data.h5")[3:])
    assert exit_.value.code == 2
    assert "cannot write" in capsys.readouterr().err


def test_record_takes_any_environment_and_any_policy(tmp_path: Path) -> None:
    env = gym.make("CartPole-v1", render_mode="rgb_array")
    path = record(
        env, lambda frame: int(frame.mean() > 127), tmp_path / "a.h5", episodes=2, max_steps=9, progress=False
    )
    with Dataset(path) as data:
        assert data.header.env == "CartPole-v1"
        assert data.episode(0).frames.shape[1:] == (64, 64, 3)
        assert data.episode(0).frames.std() > 0
    env.close()
    path = record(
        lambda: gym.make("Pendulum-v1", render_mode="rgb_array"), "sticky", tmp_path / "b.h5",
        episodes=3, max_steps=5, size=(32, 48), workers=2, progress=False,
    )  # fmt: skip
    with Dataset(path) as data:
        assert data.episode(2).actions.shape == (5, 1)
        assert data.episode(2).frames.shape == (6, 32, 48, 3)
        assert data.episode(2).truncations.tolist() == [False] * 4 + [True]


def test_paths_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    small = {"episodes": 2, "size": 16, "progress": False}
    assert record("toy", "random", "~/a.h5", **small) == tmp_path / "a.h5"
    collect(Collect(Path("~/b.h5"), "toy", episodes=2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "b.h5", "b.run.json"]
    with pytest.raises(UserError, match=f"no policy file at {tmp_path}/c.zip"):
        record("toy", "~/c.zip", "~/c.h5", **small)


def test_record_refuses_what_it_does_not_take(tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    with pytest.raises(UserError, match=r"size, max_steps: the environment .* is made already"):
        record(gym.make("worldmodel/Toy-v0"), "random", out, size=16, max_steps=2, progress=False)
    for wrong in ({"episodes": 2.5}, {"episodes": True}, {"seed": -1}, {"workers": 0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            record("toy", "random", out, progress=False, **wrong)
    assert list(tmp_path.iterdir()) == []
    path = record("toy", "random", out, episodes=np.int64(2), seed=np.int32(1), size=np.int16(16), progress=False)
    with Dataset(path) as data:
        assert data.header.seed == 1
        assert data.header.env_kwargs["size"] == [16, 16]


def test_an_action_outside_the_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"99 .* outside Discrete"):
        record("toy", lambda frame: 99, tmp_path / "a.h5", episodes=1, progress=False)
    assert not (tmp_path / "a.h5").exists()


@settings(max_examples=60, deadline=None)
@given(
    shares=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    seed=st.integers(0, 2**32),
    count=st.integers(20, 300),
)
def test_policies_play_their_share_of_episodes(shares: list[int], seed: int, count: int) -> None:
    parts = [s / sum(shares) for s in shares]
    chosen = np.bincount([choose_policy(parts, seed, i) for i in range(count)], minlength=len(parts))
    assert np.abs(chosen - count * np.asarray(parts)).max() <= 3 + 0.02 * count


@pytest.mark.parametrize("space", [Discrete(3), MultiDiscrete((2, 5)), MultiBinary(3), Box((-1.0, None), (1.0, 2.0))])
def test_scripted_policies_stay_inside_every_space(space: object) -> None:
    for name in ("random", "sticky", "periodic"):
        policy = parse_policy(name, space, {}, epsilon=0.2).build(space)  # type: ignore[arg-type]
        runs = []
        for _ in range(2):
            policy.begin(np.random.default_rng(3))
            runs.append(np.stack([check_actions(space, policy.act(np.zeros((4, 4, 3), np.uint8))) for _ in range(200)]))  # type: ignore[arg-type]
        np.testing.assert_array_equal(*runs)
        assert len(np.unique(runs[0], axis=0)) > 1


def test_periodic_repeats_each_action_for_its_period() -> None:
    policy = PeriodicPolicy([1, 2], 6)
    policy.begin(np.random.default_rng(0))
    text = "".join(str(policy.act(np.zeros(1))) for _ in range(21))
    assert text in ("111222222111111222222", "222111111222222111111")
    assert default_cycle(MultiDiscrete((2, 3))) == [[0, 0], [1, 1], [1, 2]]


def test_the_base_policy_plays_the_remaining_share() -> None:
    base, other = PolicySpec("a", "random"), PolicySpec("b", "random", share=0.25)
    assert [p.share for p in mix_policies(base, [other])] == [0.75, 0.25]
    with pytest.raises(UserError, match="twice"):
        mix_policies(base, [PolicySpec("a", "random", share=0.5)])


def test_play_stores_the_results_of_the_environment() -> None:
    env = envs.make("toy")
    spec = parse_policy("random", env.unwrapped.meta.action_space, {})
    a = play(env, spec.build(Discrete(env.action_space.n)), index=3, seed=1, policy_name="random")
    b = play(env, spec.build(Discrete(env.action_space.n)), index=3, seed=1, policy_name="random")
    np.testing.assert_array_equal(a.frames, b.frames)
    frame, _ = env.reset(seed=a.seed)
    np.testing.assert_array_equal(a.frames[0], frame)
    for t, action in enumerate(a.actions):
        frame, reward, *_ = env.step(int(action))
        np.testing.assert_array_equal(a.frames[t + 1], frame)
        assert a.rewards[t] == np.float32(reward)


@pytest.mark.slow
def test_two_vizdoom_recorders_at_the_same_time(doom_reference: str, tmp_path: Path) -> None:
    """One is killed and continued; the other is not affected."""
    undisturbed, killed = tmp_path / "undisturbed" / "data.h5", tmp_path / "killed"
    killed.mkdir()
    other = subprocess.Popen(
        command(undisturbed, "--max-steps", "60", env="doom/take-cover", episodes=200),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    for trial in range(3):
        (killed / str(trial)).mkdir()
        kill_doom_recording(
            doom_reference, killed / str(trial), None, "supervisor", signal.SIGKILL, random.Random(trial)
        )
    assert other.wait(300) == 0
    log = other.stderr.read().decode() if other.stderr else ""
    assert "is restarted" not in log
    verify(undisturbed)


def test_seed_and_index_determine_the_episode() -> None:
    drawn = {(episode_seeds(s, i)[0], int(episode_seeds(s, i)[1].integers(2**40))) for s in range(4) for i in range(50)}
    assert len({a for a, _ in drawn}) == len({b for _, b in drawn}) == 200


def test_epsilon_is_the_share_of_random_steps() -> None:
    spec = parse_policy("periodic:1000000", Discrete(4), {"periodic": {"actions": [2]}}, epsilon=0.3)
    policy = spec.build(Discrete(4))
    policy.begin(np.random.default_rng(0))
    actions = np.asarray([int(policy.act(np.zeros((4, 4, 3), np.uint8))) for _ in range(4000)])
    assert (actions != 2).mean() == pytest.approx(0.3 * 3 / 4, abs=0.03)


class Fragile(gym.Env):
    """Kills its own process during an episode: once, or always."""

    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, flag: Path, always: bool) -> None:
        self.flag, self.always = flag, always

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps, self.length = 0, 5 + int(self.np_random.integers(10))
        return np.full((16, 16, 3), self.length, np.uint8), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        if self.length == 9 and self.steps == 3 and (self.always or not self.flag.exists()):
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return np.full((16, 16, 3), self.steps, np.uint8), float(action), self.steps == self.length, False, {}


def test_an_episode_is_played_again_after_its_process_died(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # so that the class travels
    flag = tmp_path / "flag"
    small = {"episodes": 30, "size": (16, 16), "progress": False}
    dies_once = record(lambda: Fragile(flag, False), "random", tmp_path / "a.h5", workers=2, **small)
    assert "in episode" in capsys.readouterr().err
    assert flag.exists()
    undisturbed = record(lambda: Fragile(flag, False), "random", tmp_path / "b.h5", **small)
    assert digest(dies_once) == digest(undisturbed)
    with pytest.raises(RuntimeError, match=r"died 3 times in episode \d+ \(exit -9\)"):
        record(lambda: Fragile(flag, True), "random", tmp_path / "c.h5", workers=2, **small)
    assert not (tmp_path / "c.h5").exists()
