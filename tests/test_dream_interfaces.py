"""The interfaces of a dream compared with gymnasium's SyncVectorEnv and SB3's DummyVecEnv over single dreams."""

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
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecTransposeImage
from untrained import make_world

import worldmodel
from worldmodel.bench.bench_worlds import random_world
from worldmodel.collect import record
from worldmodel.collect.collect_config import TrainPolicy
from worldmodel.collect.learner_config import LearnerConfig
from worldmodel.collect.learner_view import LearnerView
from worldmodel.collect.policy_training import train_policy
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec
from worldmodel.dream import DreamEnv, DreamLearnerEnv, DreamVecEnv, DreamVectorEnv, Simulator
from worldmodel.dream.learner_vec_env import policy_view
from worldmodel.train.presets import PRESETS
from worldmodel.train.trainers import train_world

N, HORIZON, SIDE = 5, 6, 16  # rows, steps of a dream, pixels of a frame's side


@pytest.fixture(scope="module")
def world_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world of the toy, trained for a few steps: its quality does not matter here."""
    folder = tmp_path_factory.mktemp("interfaces")
    data = record("toy", "sticky", folder / "toy.h5", episodes=20, size=SIDE, progress=False)
    tiny = PRESETS["tiny"]
    loops = {name: replace(getattr(tiny, name), num_steps=20) for name in ("train_tokenizer", "train_prior")}
    train_world(data, folder / "w", replace(tiny, **loops))
    return folder / "w"


@pytest.fixture(scope="module")
def world(world_dir: Path) -> Any:
    """A world whose episodes terminate often, so that every mode is exercised."""
    world = worldmodel.WorldModel.from_pretrained(world_dir)
    world.prior.heads.end.bias.data += 0.7
    return world


def assert_same(result: Any, expected: Any) -> None:
    """Equal structures; floats to 1e-4 and pixels to 3, since a batch may round otherwise than a single row."""
    assert type(result) is type(expected) or np.isscalar(result), (type(result), type(expected))
    if isinstance(expected, dict):
        assert set(result) == set(expected)
        for key in expected:
            assert_same(result[key], expected[key])
    elif isinstance(expected, np.ndarray) and expected.dtype != object:
        assert result.dtype == expected.dtype
        tolerance = 3.0 if expected.dtype == np.uint8 else 1e-4
        np.testing.assert_allclose(result.astype(float), expected.astype(float), rtol=1e-4, atol=tolerance)
    elif isinstance(expected, np.ndarray | list | tuple):
        assert len(result) == len(expected)
        for a, b in zip(result, expected, strict=True):
            assert_same(a, b)
    elif expected is not None:
        assert result == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_dream_vector_env_equals_sync_vector_env_over_single_dreams(mode: AutoresetMode, world: Any) -> None:
    check_against_sync_vector_env(world, mode, 5)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_world_with_a_last_frame_is_dreamed_up_to_it_in_every_mode(mode: AutoresetMode) -> None:
    world = make_world(flat=True, hazard=-2.5, attention="full", num_frames=HORIZON + 1)
    check_against_sync_vector_env(world, mode, 3)
    dreams = Simulator(world, 2)
    dreams.reset()
    dreams.hold(torch.tensor([0]))
    frames = dreams.rollout(torch.ones(2, HORIZON, dtype=torch.int64)).frames
    assert (frames[0, 1:] == frames[0, :1]).all()
    dreams.reset(torch.tensor([1]))  # row 0 stays at its last frame, row 1 reaches its own again
    dreams.rollout(torch.ones(2, HORIZON, dtype=torch.int64))
    dreams.reset()
    with pytest.raises(UserError, match="the last this flat prior knows"):
        dreams.rollout(torch.ones(2, HORIZON + 1, dtype=torch.int64))


@pytest.mark.parametrize(
    "mode",
    [
        AutoresetMode.SAME_STEP,
        *(pytest.param(mode, marks=pytest.mark.slow) for mode in AutoresetMode if mode != AutoresetMode.SAME_STEP),
    ],
)
def test_a_world_with_a_causal_tokenizer_is_dreamed_alike(mode: AutoresetMode) -> None:
    check_against_sync_vector_env(make_world(hazard=-2.0, causal=True), mode, 3)


def test_a_dream_is_truncated_at_the_last_frame_that_its_world_knows() -> None:
    world = make_world(flat=True, hazard=-20.0, attention="full", num_frames=7)
    actions = np.zeros(N, int)
    for horizon in ("recorded", None, 20):
        env = DreamEnv(world, horizon=horizon, starts="any")
        for start, last in ((0, 6), (7, 4)):  # a start of an episode is one frame, one inside an episode three
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


def test_a_row_truncated_within_a_held_action_stays_unchanged_until_the_others_are_done() -> None:
    world = make_world(flat=True, hazard=-1.5, attention="full", num_frames=7)
    for hold in (3, 4):
        learner, finished = DreamLearnerEnv(world, 8, hold=hold, horizon=6), 0
        learner.reset()
        for _ in range(30):
            *_, dones, infos = learner.step(np.zeros(8, int))
            finished += dones.sum()
            assert all(info["episode"]["l"] <= 6 for info in infos if "episode" in info)
        assert finished > 30


def check_against_sync_vector_env(world: Any, mode: AutoresetMode, num_actions: int) -> None:
    dreams = DreamVectorEnv(N, world=world, horizon=HORIZON, info=["codes"], autoreset_mode=mode)
    make: Callable[[], DreamEnv] = lambda: DreamEnv(world, horizon=HORIZON, info=["codes"])  # noqa: E731
    reference = SyncVectorEnv([make] * N, autoreset_mode=mode)
    assert dreams.metadata["autoreset_mode"] == reference.metadata["autoreset_mode"] == mode
    assert dreams.autoreset_mode == reference.autoreset_mode == mode
    assert dreams.observation_space == reference.observation_space
    assert dreams.action_space == reference.action_space
    assert_same(dreams.reset(seed=7), reference.reset(seed=7))
    rng, terminated, truncated = np.random.default_rng(0), 0, 0
    for _ in range(30):
        actions = rng.integers(0, num_actions, N)
        step = dreams.step(actions)
        assert_same(step, reference.step(actions))
        done = step[2] | step[3]
        terminated, truncated = terminated + step[2].sum(), truncated + step[3].sum()
        if mode == AutoresetMode.DISABLED and done.any():
            with pytest.raises(UserError, match=r"'reset_mask': mask.* \(\d,\) bool, True for these"):
                dreams.step(actions)
            masks = [{"reset_mask": done.copy()} for _ in range(2)]
            assert_same(dreams.reset(options=masks[0]), reference.reset(options=masks[1]))
    assert terminated > 3
    assert truncated > 3


def test_dream_vec_env_equals_dummy_vec_env_over_single_dreams(world: Any) -> None:
    dreams = DreamVecEnv(world, N, horizon=HORIZON, info=["codes"])
    reference = DummyVecEnv([lambda: DreamEnv(world, horizon=HORIZON, info=["codes"])] * N)
    for vec_env in (dreams, reference):
        vec_env.seed(3)
    assert_same(dreams.reset(), reference.reset())
    assert_same(dreams.reset_infos, reference.reset_infos)
    rng, ends = np.random.default_rng(0), 0
    for _ in range(30):
        actions = rng.integers(0, 5, N)
        step = dreams.step(actions)
        assert_same(step, reference.step(actions))
        assert_same(dreams.reset_infos, reference.reset_infos)
        ends += step[2].sum()
    assert ends > 5
    assert dreams.get_attr("num_envs", [0, 2]) == [N, N]
    for name in ("action_space", "observation_space"):
        assert dreams.get_attr(name) == reference.get_attr(name)
    with pytest.raises(UserError, match="rows are one batch"):
        dreams.env_method("reset", indices=[1])
    dreams.set_options({"frames": np.zeros((1, SIDE, SIDE, 3), np.uint8)})
    with pytest.raises(UserError, match="are taken by DreamEnv alone"):
        dreams.reset()
    assert dreams.env_is_wrapped(gym.Wrapper) == [False] * N
    dreams.close()


def test_dream_learner_env_equals_the_learner_view_over_single_dreams(world: Any) -> None:
    learner = LearnerConfig(frame_stack=2, hold=4, view=(0, 12, 4, 16), reward_scale=0.5)
    dreams = DreamLearnerEnv(
        world, N, frame_stack=2, hold=4, view=(0, 12, 4, 16), reward_scale=0.5, horizon=HORIZON, seed=3
    )
    reference = DummyVecEnv([lambda: LearnerView(DreamEnv(world, horizon=HORIZON), learner)] * N)
    assert dreams.venv.observation_space == reference.observation_space  # type: ignore[attr-defined]
    reference = VecTransposeImage(reference)
    reference.seed(3)
    assert dreams.observation_space == reference.observation_space
    assert_same(dreams.reset(), reference.reset())
    rng, ends, truncated = np.random.default_rng(0), 0, 0
    for _ in range(12):
        actions = rng.integers(0, 5, N)
        step, expected = dreams.step(actions), reference.step(actions)
        for a, b in zip(step[:3], expected[:3], strict=True):
            assert_same(a, b)
        for i in np.flatnonzero(step[2]):
            for key in ("terminal_observation", "TimeLimit.truncated"):
                assert_same(step[3][i][key], expected[3][i][key])
            assert 0 < step[3][i]["episode"]["l"] <= HORIZON
            truncated += step[3][i]["TimeLimit.truncated"]
        ends += step[2].sum()
    assert ends - truncated > 3
    assert truncated > 3
    with pytest.raises(UserError, match="is not inside the frame"):
        DreamLearnerEnv(world, 1, view=(0, SIDE + 1, 0, SIDE))
    with pytest.raises(UserError, match="needs a world with a hidden variable"):
        DreamLearnerEnv(world, 1, reward="status")


def test_a_view_is_given_in_pixels_of_the_frame_before_the_crop(world: Any) -> None:
    cropped = replace(world.spec, pixels=PixelSpec((128, 128), (20, 84, 10, 74)))
    other = worldmodel.WorldModel(world.tokenizer.config, world.prior.config, cropped)
    assert policy_view(other, 1, (30, 80, 10, 74)).slices == (slice(10, 60), slice(0, 64))
    with pytest.raises(UserError, match="rows 20 to 84"):
        policy_view(other, 1, (19, 80, 10, 74))


def test_a_rollout_equals_its_steps_and_begins_after_given_frames(world: Any) -> None:
    env = DreamEnv(world, horizon=None)
    frames = [env.reset(seed=4)[0]] + [env.step(a)[0] for a in (1, 2)]
    actions = torch.tensor([[3, 4, 1, 2], [0, 0, 1, 1]])
    simulator = Simulator(world, 2, seed=9)
    context = world.context(torch.as_tensor(np.stack(frames))[None], torch.tensor([[1, 2]]))
    simulator.reset(context=context.select(torch.tensor([0, 0])))
    saved = simulator.save()
    rollout = simulator.rollout(actions)
    assert rollout.frames.shape == (2, 5, SIDE, SIDE, 3)
    simulator.restore(saved)
    for t in range(4):
        step = simulator.step(actions[:, t])
        for name in ("frames", "rewards", "terminations", "log_probs"):
            assert torch.equal(getattr(step, name), getattr(rollout, name)[:, t + (name == "frames")])
    env.reset(seed=9, options={"frames": np.stack(frames), "actions": [1, 2]})
    assert_same(env.step(3)[0], rollout.frames[0, 1].numpy())
    with pytest.raises(UserError, match="one action fewer"):
        env.reset(options={"frames": np.stack(frames), "actions": [1]})
    with pytest.raises(UserError, match="got 1 rows to reset 2"):
        simulator.reset(context=context)


def test_the_window_of_mode_human_shows_every_frame(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_ppo_learns_in_dream_vec_env() -> None:
    world = random_world(PRESETS["tiny"], (40, 40))  # CnnPolicy needs 36 x 36 pixels
    world.prior.heads.end.bias.data.fill_(-1.0)
    ppo = PPO("CnnPolicy", VecMonitor(DreamVecEnv(world, 4)), n_steps=16, batch_size=32, n_epochs=1)
    ppo.learn(128)
    assert len(ppo.ep_info_buffer) > 0


def test_a_policy_of_the_dream_is_tested_in_the_environment(
    world_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learner = LearnerConfig(decisions=64, num_envs=4, rollout_steps=8, batch_size=32, hold=2)
    config = TrainPolicy(tmp_path / "p", "toy", learner=learner, world=world_dir, test_episodes=4, json=True)
    train_policy(config)
    result = json.loads(capsys.readouterr().out)
    assert result["decisions"] >= 64
    assert [row["policy"] for row in result["test"]] == ["dreamer", "random", "periodic"]
    assert all(row["episodes"] == 4 for row in result["test"])
    before = (tmp_path / "p" / "test.json").stat().st_mtime_ns
    train_policy(config)  # done: nothing is trained or played again
    assert (tmp_path / "p" / "test.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"has actions .*the world"):
        train_policy(replace(config, out=tmp_path / "q", env="toy/continuous"))
    with pytest.raises(UserError, match="no world directory"):
        train_policy(replace(config, out=tmp_path / "q", world=tmp_path / "nowhere"))
    assert not (tmp_path / "q").exists()


def test_a_dream_is_made_by_its_id(world_dir: Path) -> None:
    envs = gym.make_vec(
        worldmodel.DREAM_ID, num_envs=3, vectorization_mode="vector_entry_point", world=str(world_dir), horizon=4,
        autoreset_mode="SameStep",
    )  # fmt: skip
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    frames, _ = envs.reset(seed=0)
    assert frames.shape == (3, SIDE, SIDE, 3)
    with pytest.raises(UserError, match="Did you mean 'NextStep'"):
        DreamVectorEnv(2, world=world_dir, autoreset_mode="nextstep")
    with pytest.raises(UserError, match="got 2 for 3 rows"):
        envs.unwrapped.step(np.zeros(2, int))
    with pytest.raises(UserError, match="is outside"):
        envs.unwrapped.step(np.full(3, 9))
    with pytest.raises(UserError, match=r"are taken by DreamEnv"):
        envs.reset(options={"frames": frames[:1]})


def test_a_pickled_dream_continues_like_the_original(world_dir: Path) -> None:
    env = DreamEnv(world_dir)
    env.reset(seed=1)
    env.step(2)
    copy = pickle.loads(pickle.dumps(env))
    for action in (1, 2, 3):
        assert_same(env.step(action), copy.step(action))


@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_dream_vector_env_has_what_gymnasiums_vector_envs_promise(render_mode: str | None, world: Any) -> None:
    dreams = DreamVectorEnv(2, world=world, render_mode=render_mode)
    reference = SyncVectorEnv([lambda: DreamEnv(world, render_mode=render_mode)] * 2)
    for name in ("num_envs", "render_mode", "spec", "closed", "autoreset_mode", "single_action_space"):
        assert getattr(dreams, name) == getattr(reference, name)
    assert set(dreams.metadata) == set(reference.metadata)
    assert dreams.metadata["render_fps"] == reference.metadata["render_fps"]
    assert dreams.unwrapped is dreams
    dreams.reset(seed=7)
    reference.reset(seed=7)
    assert dreams.np_random_seed == reference.np_random_seed[0] == 7
    assert isinstance(dreams.np_random, np.random.Generator)
    images = dreams.render()
    assert (images is None) == (render_mode is None)
    if images is not None:
        assert_same(images, reference.render())
    for _ in range(2):  # closing twice is allowed
        dreams.close()
    assert dreams.closed


def test_unseeded_rows_dream_differently_and_follow_np_random(world: Any) -> None:
    def dream(seed: int) -> np.ndarray:
        envs = DreamVectorEnv(3, world=world)
        envs.np_random = np.random.default_rng(seed)
        envs.reset()
        return envs.simulator.state.seeds.numpy()

    assert len(set(dream(0).tolist())) == 3
    np.testing.assert_array_equal(dream(0), dream(0))
    assert (dream(0) != dream(1)).all()


def test_dream_vec_env_has_what_sb3s_vec_envs_promise(world: Any) -> None:
    dreams = DreamVecEnv(world, 3, render_mode="rgb_array")
    reference = DummyVecEnv([lambda: DreamEnv(world, render_mode="rgb_array")] * 3)
    for vec_env in (dreams, reference):
        assert vec_env.seed(5) == [5, 6, 7]
        vec_env.reset()
        assert vec_env.unwrapped is vec_env
        assert set(vec_env.metadata["render_modes"]) == {"human", "rgb_array"}
        assert vec_env.metadata["render_fps"] == 9
        assert vec_env.get_attr("spec") == [None] * 3
        assert vec_env.get_attr("render_mode") == ["rgb_array"] * 3
        assert vec_env.has_attr("horizon")
        assert not vec_env.has_attr("no_such_attribute")
    for method in ("get_images", "render"):
        assert_same(np.stack(getattr(dreams, method)()), np.stack(getattr(reference, method)()))
    for indices in (None, 1, [2, 0]):
        assert_same(dreams.env_method("render", indices=indices), reference.env_method("render", indices=indices))
    dreams.set_attr("note", 3)
    assert dreams.get_attr("note", [1]) == [3]
    with pytest.raises(UserError, match="leave the indices out"):
        dreams.set_attr("note", 4, indices=[1])
    assert VecMonitor(dreams).reset().shape == reference.reset().shape
    dreams.close()
    dreams.close()


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"frame_stack": 4}, (12, 16, 16)),
        ({"frame_stack": 6}, (18, 16, 16)),  # fewer rows and columns than channels
        ({"frame_stack": 4, "view": (4, 12, 0, 16)}, (12, 8, 16)),  # fewer rows than channels
        ({"frame_stack": 2, "view": (0, 16, 4, 8)}, (6, 16, 4)),  # fewer columns than channels
    ],
    ids=str,
)
def test_a_policy_gets_the_channels_first_whatever_their_number(
    options: dict[str, Any], shape: tuple[int, int, int]
) -> None:
    dreams = DreamLearnerEnv(make_world(), 2, **options)
    policy = PPO("MlpPolicy", dreams, n_steps=2, batch_size=2, n_epochs=1, device="cpu")
    assert policy.observation_space.shape == dreams.observation_space.shape == shape
    observations = dreams.reset()
    np.testing.assert_array_equal(observations, np.moveaxis(dreams.venv.stacked, -1, 1))  # type: ignore[attr-defined]
    policy.learn(4)
