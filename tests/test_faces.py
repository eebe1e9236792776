"""The dream's faces against reference loops: gymnasium's SyncVectorEnv and SB3's DummyVecEnv over single dreams."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor
from untrained import make_world

import worldmodel
from worldmodel.collect import record
from worldmodel.collect.collect_config import LearnerConfig, TrainPolicy
from worldmodel.collect.learner_view import LearnerView
from worldmodel.collect.policy_training import train_policy
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec
from worldmodel.dream import DreamEnv, DreamLearnerEnv, DreamVecEnv, DreamVectorEnv, Simulator
from worldmodel.dream.learner_vec_env import part_seen
from worldmodel.train.presets import PRESETS
from worldmodel.train.trainers import train_world

N, HORIZON = 5, 6


@pytest.fixture(scope="module")
def world_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    train_world(record("toy", "sticky", folder / "toy.h5", episodes=30, progress=False), folder / "w", PRESETS["tiny"])
    return folder / "w"


@pytest.fixture(scope="module")
def world(world_dir: Path) -> Any:
    """A world whose ends come often, so that every mode is exercised."""
    world = worldmodel.WorldModel.from_pretrained(world_dir)
    world.prior.heads.end.bias.data += 0.7
    return world


def same(ours: Any, theirs: Any) -> None:
    """Equal structures; floats to 1e-4 and pixels to 3, since a batch may round otherwise than a single row."""
    assert type(ours) is type(theirs) or np.isscalar(ours), (type(ours), type(theirs))
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs)
        for key in theirs:
            same(ours[key], theirs[key])
    elif isinstance(theirs, np.ndarray) and theirs.dtype != object:
        assert ours.dtype == theirs.dtype
        near = 3.0 if theirs.dtype == np.uint8 else 1e-4
        np.testing.assert_allclose(ours.astype(float), theirs.astype(float), rtol=1e-4, atol=near)
    elif isinstance(theirs, np.ndarray | list | tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            same(a, b)
    elif theirs is not None:
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_the_vector_face_is_gymnasiums_loop_over_single_dreams(mode: AutoresetMode, world: Any) -> None:
    check_against_gymnasiums_loop(world, mode, 5)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_world_that_knows_a_last_frame_is_dreamt_up_to_it_in_every_mode(mode: AutoresetMode) -> None:
    world = make_world(flat=True, hazard=-2.5, attention="full", num_frames=HORIZON + 1)
    check_against_gymnasiums_loop(world, mode, 3)
    dreams = Simulator(world, 2)
    dreams.reset()
    dreams.hold(torch.tensor([0]))
    frames = dreams.rollout(torch.ones(2, HORIZON, dtype=torch.int64)).frames
    assert (frames[0, 1:] == frames[0, :1]).all()
    dreams.reset(torch.tensor([1]))  # row 0 keeps still beyond its last frame, row 1 lives up to its own once more
    dreams.rollout(torch.ones(2, HORIZON, dtype=torch.int64))
    dreams.reset()
    with pytest.raises(UserError, match="the last this flat prior knows"):
        dreams.rollout(torch.ones(2, HORIZON + 1, dtype=torch.int64))


def test_where_a_world_knows_a_last_frame_a_dream_is_truncated_there() -> None:
    world = make_world(flat=True, hazard=-20.0, attention="full", num_frames=7)
    actions = np.zeros(N, int)
    for horizon in ("recorded", None, 20):
        env = DreamEnv(world, horizon=horizon, starts="any")
        for start, last in ((0, 6), (7, 4)):  # a true start is one frame, a moment inside an episode three
            env.reset(options={"start": start})
            steps = [env.step(0) for _ in range(last)]
            assert [step[3] for step in steps] == [False] * (last - 1) + [True]
        envs = DreamVectorEnv(N, world=world, horizon=horizon)
        envs.reset(seed=0)
        cut = np.stack([envs.step(actions)[3] for _ in range(13)])  # 6 steps, the reset, 6 steps
        assert cut.sum(0).tolist() == [2] * N
        assert cut[[5, 12]].all()
    learner = DreamLearnerEnv(world, N, hold=4, horizon=None)
    learner.reset()
    dones = np.stack([learner.step(actions)[2] for _ in range(4)])
    assert dones.tolist() == [[False] * N, [True] * N] * 2
    learner.close()
    assert learner.get_attr("hold") == [4] * N


def test_a_row_cut_off_within_a_held_action_keeps_still_till_the_others_are_through() -> None:
    world = make_world(flat=True, hazard=-1.5, attention="full", num_frames=7)
    for hold in (3, 4):
        learner, finished = DreamLearnerEnv(world, 8, hold=hold, horizon=6), 0
        learner.reset()
        for _ in range(30):
            *_, dones, infos = learner.step(np.zeros(8, int))
            finished += dones.sum()
            assert all(info["episode"]["l"] <= 6 for info in infos if "episode" in info)
        assert finished > 30


def check_against_gymnasiums_loop(world: Any, mode: AutoresetMode, num_actions: int) -> None:
    ours = DreamVectorEnv(N, world=world, horizon=HORIZON, info=["codes"], autoreset_mode=mode)
    make: Callable[[], DreamEnv] = lambda: DreamEnv(world, horizon=HORIZON, info=["codes"])  # noqa: E731
    theirs = SyncVectorEnv([make] * N, autoreset_mode=mode)
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"] == mode
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    same(ours.reset(seed=7), theirs.reset(seed=7))
    rng, terminated, truncated = np.random.default_rng(0), 0, 0
    for _ in range(60):
        actions = rng.integers(0, num_actions, N)
        mine, reference = ours.step(actions), theirs.step(actions)
        same(mine, reference)
        done = mine[2] | mine[3]
        terminated, truncated = terminated + mine[2].sum(), truncated + mine[3].sum()
        if mode == AutoresetMode.DISABLED and done.any():
            with pytest.raises(UserError, match=r"'reset_mask': mask.* \(\d,\) bool, True for these"):
                ours.step(actions)
            masks = [{"reset_mask": done.copy()} for _ in range(2)]
            same(ours.reset(options=masks[0]), theirs.reset(options=masks[1]))
    assert terminated > 3
    assert truncated > 3


def test_the_sb3_face_is_dummy_vec_env_over_single_dreams(world: Any) -> None:
    ours = DreamVecEnv(world, N, horizon=HORIZON, info=["codes"])
    theirs = DummyVecEnv([lambda: DreamEnv(world, horizon=HORIZON, info=["codes"])] * N)
    for face in (ours, theirs):
        face.seed(3)
    same(ours.reset(), theirs.reset())
    same(ours.reset_infos, theirs.reset_infos)
    rng, ends = np.random.default_rng(0), 0
    for _ in range(60):
        actions = rng.integers(0, 5, N)
        mine, reference = ours.step(actions), theirs.step(actions)
        same(mine, reference)
        same(ours.reset_infos, theirs.reset_infos)
        ends += mine[2].sum()
    assert ends > 5
    assert ours.get_attr("num_envs", [0, 2]) == [N, N]
    for name in ("action_space", "observation_space"):
        assert ours.get_attr(name) == theirs.get_attr(name)
    with pytest.raises(UserError, match="rows are one batch"):
        ours.env_method("reset", indices=[1])
    ours.set_options({"frames": np.zeros((1, 64, 64, 3), np.uint8)})
    with pytest.raises(UserError, match="is taken by DreamEnv alone"):
        ours.reset()
    assert ours.env_is_wrapped(gym.Wrapper) == [False] * N
    ours.close()


def test_the_learners_face_is_its_view_over_single_dreams(world: Any) -> None:
    learner = LearnerConfig(frame_stack=2, hold=4, view=(0, 48, 16, 64), reward_scale=0.5)
    ours = DreamLearnerEnv(
        world, N, frame_stack=2, hold=4, view=(0, 48, 16, 64), reward_scale=0.5, horizon=HORIZON, seed=3
    )
    theirs = DummyVecEnv([lambda: LearnerView(DreamEnv(world, horizon=HORIZON), learner)] * N)
    theirs.seed(3)
    assert ours.observation_space == theirs.observation_space
    same(ours.reset(), theirs.reset())
    rng, ends, cuts = np.random.default_rng(0), 0, 0
    for _ in range(40):
        actions = rng.integers(0, 5, N)
        mine, reference = ours.step(actions), theirs.step(actions)
        for a, b in zip(mine[:3], reference[:3], strict=True):
            same(a, b)
        for i in np.flatnonzero(mine[2]):
            for key in ("terminal_observation", "TimeLimit.truncated"):
                same(mine[3][i][key], reference[3][i][key])
            assert 0 < mine[3][i]["episode"]["l"] <= HORIZON
            cuts += mine[3][i]["TimeLimit.truncated"]
        ends += mine[2].sum()
    assert ends - cuts > 3
    assert cuts > 3
    with pytest.raises(UserError, match="not inside the part"):
        DreamLearnerEnv(world, 1, view=(0, 65, 0, 64))
    with pytest.raises(UserError, match="needs a world with a hidden variable"):
        DreamLearnerEnv(world, 1, reward="status")


def test_a_crop_shows_the_part_of_the_whole_picture(world: Any) -> None:
    cropped = replace(world.spec, pixels=PixelSpec((128, 128), (20, 84, 10, 74)))
    other = worldmodel.WorldModel(world.tokenizer.config, world.prior.config, cropped)
    assert part_seen(other, (30, 80, 10, 74)) == (slice(10, 60), slice(0, 64))
    with pytest.raises(UserError, match="rows 20 to 84"):
        part_seen(other, (19, 80, 10, 74))


def test_rollouts_and_contexts_of_ones_own(world: Any) -> None:
    env = DreamEnv(world, horizon=None)
    seen = [env.reset(seed=4)[0]] + [env.step(a)[0] for a in (1, 2)]
    actions = torch.tensor([[3, 4, 1, 2], [0, 0, 1, 1]])
    simulator = Simulator(world, 2, seed=9)
    context = world.context(torch.as_tensor(np.stack(seen))[None], torch.tensor([[1, 2]]))
    simulator.reset(context=context.select(torch.tensor([0, 0])))
    mark = simulator.save()
    rollout = simulator.rollout(actions)
    assert rollout.frames.shape == (2, 5, 64, 64, 3)
    simulator.restore(mark)
    for t in range(4):
        step = simulator.step(actions[:, t])
        for name in ("frames", "rewards", "terminations", "log_probs"):
            assert torch.equal(getattr(step, name), getattr(rollout, name)[:, t + (name == "frames")])
    env.reset(seed=9, options={"frames": np.stack(seen), "actions": [1, 2]})
    same(env.step(3)[0], rollout.frames[0, 1].numpy())
    with pytest.raises(UserError, match="one action fewer"):
        env.reset(options={"frames": np.stack(seen), "actions": [1]})
    with pytest.raises(UserError, match="got 1 rows to reset 2"):
        simulator.reset(context=context)


def test_a_window_follows_the_dream(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = DreamEnv(world, render_mode="human")
    frame, _ = env.reset(seed=0)
    assert env.render() is None
    shown = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
    np.testing.assert_array_equal(shown[::8, ::8], frame)
    env.close()
    assert not pygame.display.get_init()
    monkeypatch.setenv("SDL_VIDEODRIVER", "no such driver")
    with pytest.raises(UserError, match="found no screen"):
        DreamEnv(world, render_mode="human").reset()


def test_ppo_learns_in_the_sb3_face_unmodified(world: Any) -> None:
    ppo = PPO("CnnPolicy", VecMonitor(DreamVecEnv(world, 4)), n_steps=16, batch_size=32, n_epochs=1)
    ppo.learn(128)
    assert len(ppo.ep_info_buffer) > 0


def test_a_policy_of_the_dream_is_tested_outside(
    world_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learner = LearnerConfig(decisions=64, num_envs=4, rollout_steps=8, batch_size=32, hold=2)
    config = TrainPolicy(tmp_path / "p", "toy", learner=learner, world=world_dir, test_episodes=4, json=True)
    train_policy(config)
    said = json.loads(capsys.readouterr().out)
    assert said["decisions"] >= 64
    assert [row["policy"] for row in said["test"]] == ["dreamer", "random", "periodic"]
    assert all(row["episodes"] == 4 for row in said["test"])
    before = (tmp_path / "p" / "test.json").stat().st_mtime_ns
    train_policy(config)  # done: nothing is trained or played again
    assert (tmp_path / "p" / "test.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"has actions .*the world"):
        train_policy(replace(config, out=tmp_path / "q", env="toy/continuous"))
    with pytest.raises(UserError, match="no world directory"):
        train_policy(replace(config, out=tmp_path / "q", world=tmp_path / "nowhere"))
    assert not (tmp_path / "q").exists()


def test_made_by_id(world_dir: Path) -> None:
    envs = gym.make_vec(
        worldmodel.DREAM_ID, num_envs=3, vectorization_mode="vector_entry_point", world=str(world_dir), horizon=4,
        autoreset_mode="SameStep",
    )  # fmt: skip
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    frames, _ = envs.reset(seed=0)
    assert frames.shape == (3, 64, 64, 3)
    with pytest.raises(UserError, match="Did you mean 'NextStep'"):
        DreamVectorEnv(2, world=world_dir, autoreset_mode="nextstep")
    with pytest.raises(UserError, match="got 2 for 3 rows"):
        envs.unwrapped.step(np.zeros(2, int))
    with pytest.raises(UserError, match="is outside"):
        envs.unwrapped.step(np.full(3, 9))
    with pytest.raises(UserError, match=r"is taken by DreamEnv"):
        envs.reset(options={"frames": frames[:1]})


def test_a_single_dream_pickles_with_its_place(world_dir: Path) -> None:
    env = DreamEnv(world_dir)
    env.reset(seed=1)
    env.step(2)
    twin = pickle.loads(pickle.dumps(env))
    for action in (1, 2, 3):
        same(env.step(action), twin.step(action))
