"""A tiny world from recording to dreaming: train, save, load, step, reset, branch."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from square import PLACES, picture, record_square
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from worldmodel.common.errors import UserError
from worldmodel.data import Dataset
from worldmodel.dream import DreamEnv, DreamVectorEnv, Simulator, register
from worldmodel.train import train_world
from worldmodel.train.presets import PRESETS
from worldmodel.world.world_model import WorldModel

register()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return record_square(tmp_path_factory.mktemp("data") / "square.h5")


@pytest.fixture(scope="module")
def world_dir(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs") / "square"
    train_world(data, out, PRESETS["tiny"])
    return out


@pytest.fixture(scope="module")
def world(world_dir: Path) -> WorldModel:
    return WorldModel.from_pretrained(world_dir)


def test_a_tiny_model_fits_a_tiny_environment(world: WorldModel) -> None:
    assert world.report["psnr"] > 30
    assert world.report["nats_per_code"] < 0.1
    assert world.report["nats_per_code_shuffled"] > 2 * world.report["nats_per_code"] + 0.1
    assert not world.spec.end_has_frame
    assert world.spec.max_steps == 12
    env = DreamEnv(world, temperature=0.0, starts="episode")
    right, total = 0, 0
    for seed in range(12):
        frame, _ = env.reset(seed=seed)
        place = int(np.argmin([np.abs(frame.astype(int) - picture(p)).mean() for p in range(PLACES)]))
        for _ in range(4):
            frame, reward, terminated, _, _ = env.step(1)
            place = (place + 1) % PLACES
            right += np.abs(frame.astype(int) - picture(place)).mean() < 20
            total += 1
            assert abs(reward - (place == 3)) < 0.5
            assert not terminated
            if place == 3:
                break
        before = frame.copy()
        frame, reward, terminated, truncated, info = env.step(0)
        assert terminated
        assert not truncated
        assert info["hazard"] > 0.5
        np.testing.assert_array_equal(frame, before)  # the environment has no frame of the terminal step
    assert right == total


def test_a_loaded_world_equals_the_saved_one(world: WorldModel, world_dir: Path, tmp_path: Path) -> None:
    world.save_pretrained(tmp_path / "copy")
    again = WorldModel.from_pretrained(tmp_path / "copy")
    assert again.tokenizer.config == world.tokenizer.config
    assert again.prior.config == world.prior.config
    assert again.spec == world.spec
    assert again.report == world.report
    assert world.starts is not None
    assert again.starts is not None
    for name, tensor in world.starts.tensors().items():
        assert torch.equal(tensor, again.starts.tensors()[name])
    for name, tensor in world.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert "test/Square-v0" in (world_dir / "README.md").read_text()
    world.save_pretrained(tmp_path / "copy")  # a world may be replaced
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UserError, match="not a world"):
        world.save_pretrained(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_starts_are_the_first_frames_of_episodes(world: WorldModel, data: Dataset) -> None:
    starts = world.starts
    assert starts is not None
    assert len(starts) == 80  # all episodes of the training split, which are more than num_starts
    first = data.frames(int(data.episodes_of("train")[5]), 0, 1)
    codes = world.tokenizer.encode(torch.from_numpy(first)[None])[0, 0]
    assert torch.equal(starts.context.codes[5, -1], codes)
    assert not starts.context.has_action.any()


def damage(name: str, directory: Path) -> str:
    """Damage a world directory; returns a part of the expected error message."""
    config = json.loads((directory / "config.json").read_text())
    if name == "no config":
        (directory / "config.json").unlink()
        return "no config.json"
    if name == "half a config":
        (directory / "config.json").write_text((directory / "config.json").read_text()[:200])
        return "cannot be read"
    if name == "half the weights":
        whole = (directory / "model.safetensors").read_bytes()
        (directory / "model.safetensors").write_bytes(whole[: len(whole) // 2])
        return "damaged"
    if name == "no starts":
        (directory / "starts.safetensors").unlink()
        return "no starts.safetensors"
    change = {
        "foreign": ({"format": "diffusers"}, "something else"),
        "newer": ({"version": 99}, "version 99"),
        "unknown field": ({"tokenizer": {**config["tokenizer"], "flavour": 1}}, "tokenizer: extra fields found"),
        "wrong size": ({"prior": {**config["prior"], "width": 64}}, "do not fit"),
        "wrong tokenizer": ({"prior_of_tokenizer": "0" * 64}, "another tokenizer"),
        "no spec": ({"spec": {}}, "spec lacks the field 'env'"),
    }[name]
    del config["config_sha256"]
    (directory / "config.json").write_text(json.dumps({**config, **change[0]}))
    return change[1]


DAMAGES = (
    "no config", "half a config", "half the weights", "no starts", "foreign", "newer", "unknown field",
    "wrong size", "wrong tokenizer", "no spec",
)  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_directories_are_refused(name: str, world_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(world_dir, tmp_path / "bad")
    word = damage(name, tmp_path / "bad")
    with pytest.raises(UserError, match=word):
        WorldModel.from_pretrained(tmp_path / "bad")


def test_a_missing_directory_is_refused() -> None:
    with pytest.raises(UserError, match="no world directory"):
        gymnasium.make("worldmodel/Dream-v0", world="does/not/exist")


def dream(world: WorldModel, num_rows: int, seed: int, steps: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    simulator = Simulator(world, num_rows, seed=seed)
    frames, log_probs = [simulator.reset()], []
    for t in range(steps):
        out = simulator.step(torch.full((num_rows,), t % 2))
        frames.append(out.frames)
        log_probs.append(out.log_probs)
    return torch.stack(frames, 1), torch.stack(log_probs, 1)


def test_a_dream_depends_on_its_seed_and_not_on_the_batch(world: WorldModel) -> None:
    frames, log_probs = dream(world, 5, seed=3)
    for row in range(5):
        alone, nats = dream(world, 1, seed=3 + row)
        assert (alone[0].int() - frames[row].int()).abs().max() <= 1  # a batch may round otherwise
        torch.testing.assert_close(nats[0], log_probs[row], atol=1e-4, rtol=1e-4)
    assert not torch.equal(dream(world, 5, seed=90)[0], frames)


def test_batch_invariant_dreams_are_bitwise_equal(world: WorldModel) -> None:
    def run(rows: int, first: int) -> list[torch.Tensor]:
        simulator = Simulator(world, rows, seed=first, starts="any", batch_invariant=True)
        simulator.reset()
        out = [simulator.step(torch.full((rows,), t % 2)) for t in range(6)]
        names = ("frames", "rewards", "hazards", "log_probs", "terminations")
        return [torch.stack([getattr(step, name) for step in out], 1) for name in names]

    sixteen = run(16, 0)
    for rows, first in ((1, 0), (1, 11), (5, 3), (7, 9)):
        for few, many in zip(run(rows, first), sixteen, strict=True):
            assert torch.equal(few, many[first : first + rows])


def test_a_restored_state_repeats_and_a_reset_row_leaves_the_others(world: WorldModel) -> None:
    simulator = Simulator(world, 3, seed=1)
    simulator.reset()
    simulator.step(torch.tensor([1, 0, 1]))
    state = simulator.save()
    first = simulator.step(torch.tensor([1, 1, 0]))
    simulator.step(torch.tensor([0, 0, 0]))
    simulator.restore(state)
    again = simulator.step(torch.tensor([1, 1, 0]))
    assert torch.equal(first.frames, again.frames)
    assert torch.equal(first.rewards, again.rewards)
    before = simulator.save()
    simulator.reset(torch.tensor([1]))
    for name, value in vars(simulator.state.prior).items():
        kept = getattr(before.prior, name)
        assert torch.equal(value[[0, 2]], kept[[0, 2]])
    with pytest.raises(UserError, match="starts 0 to"):
        simulator.reset(starts=torch.tensor([0, 1, 10**6]))


def test_the_checkers_of_gymnasium_and_sb3_accept_the_dream(world_dir: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make("worldmodel/Dream-v0", world=str(world_dir), render_mode="rgb_array")
        check_env(env.unwrapped)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*minimal resolution.*")
        sb3_check_env(DreamEnv(world_dir, render_mode="rgb_array"), skip_render_check=False)
    env.reset(options={"start": 3})
    with pytest.raises(UserError, match="outside"):
        env.step(7)


def test_the_horizon_truncates_and_a_start_can_be_chosen(world: WorldModel) -> None:
    env = DreamEnv(world, horizon=3)
    a, info = env.reset(seed=1, options={"start": 4})
    assert info["start"] == 4
    ends = []
    while not ends or not any(ends[-1]):
        *_, terminated, truncated, _ = env.step(1)
        ends.append((terminated, truncated))
    assert ends[-1] in [(False, True), (True, False)]
    b, _ = env.reset(seed=2, options={"start": 4})
    np.testing.assert_array_equal(a, b)
    with pytest.raises(UserError, match="horizon"):
        DreamEnv(world, horizon=0)


def assert_close(frame: np.ndarray, other: np.ndarray) -> None:
    """Equal except for rounding: kernels of different batch sizes add in another order."""
    np.testing.assert_allclose(frame.astype(int), other.astype(int), rtol=0, atol=1)


def test_rows_of_a_vector_environment_equal_single_environments(world: WorldModel) -> None:
    envs = DreamVectorEnv(3, world=world, horizon=6)
    singles = [DreamEnv(world, horizon=6) for _ in range(3)]
    frames, info = envs.reset(seed=10)
    assert frames.shape == envs.observation_space.shape
    for i, env in enumerate(singles):
        frame, single = env.reset(seed=10 + i)
        assert_close(frame, frames[i])
        assert single["start"] == info["start"][i]
    finished = [False] * 3
    rng = np.random.default_rng(0)
    resets = 0
    for _ in range(25):
        actions = rng.integers(0, 2, 3)
        frames, rewards, terminations, truncations, _ = envs.step(actions)
        for i, env in enumerate(singles):
            if finished[i]:
                frame, _ = env.reset()
                reward, terminated, truncated = 0.0, False, False
                resets += 1
            else:
                frame, reward, terminated, truncated, _ = env.step(actions[i])
            assert_close(frame, frames[i])
            assert (terminated, truncated) == (terminations[i], truncations[i])
            assert abs(reward - rewards[i]) < 1e-4
            finished[i] = terminated or truncated
    assert resets > 3
    made = gymnasium.make_vec(
        "worldmodel/Dream-v0", num_envs=2, vectorization_mode="vector_entry_point", world=world, horizon=6
    )
    assert made.metadata["autoreset_mode"] == gymnasium.vector.AutoresetMode.NEXT_STEP
