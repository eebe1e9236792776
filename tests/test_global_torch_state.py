"""Loading, training and evaluating neither depend on torch's global state nor change it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from square import record_square, short

from worldmodel.common.errors import UserError
from worldmodel.common.torch_state import isolated_torch_state
from worldmodel.data import Dataset
from worldmodel.metrics import EvaluationSettings, evaluate
from worldmodel.train import train_prior, train_tokenizer, train_world
from worldmodel.world.tokenizer_storage import TokenizerCheckpoint
from worldmodel.world.world_model import WorldModel

SETTINGS = EvaluationSettings(clips=4, ahead=2, horizon=4, rows=3, metrics=("nats", "psnr", "ssim", "end_mean"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return record_square(tmp_path_factory.mktemp("data") / "square.h5", 40)


@pytest.fixture(scope="module")
def world_dir(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("worlds") / "world"
    train_world(data, out, short(4), device="cpu")
    return out


@pytest.fixture(params=[torch.float64, torch.bfloat16, torch.float16], ids=str)
def default_dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


def assert_equal(first: torch.nn.Module, second: torch.nn.Module) -> None:
    for name, tensor in first.state_dict().items():
        other = second.state_dict()[name]
        assert (tensor.dtype, tensor.device) == (other.dtype, other.device), name
        assert torch.equal(tensor, other), name


def test_a_world_loads_whatever_the_default_dtype(world_dir: Path, default_dtype: torch.dtype) -> None:
    world = WorldModel.from_pretrained(world_dir)
    assert torch.get_default_dtype() == default_dtype
    torch.set_default_dtype(torch.float32)
    assert_equal(world, WorldModel.from_pretrained(world_dir))


def test_log_prob_and_context_do_not_depend_on_the_default_dtype(world_dir: Path, data: Dataset) -> None:
    world = WorldModel.from_pretrained(world_dir)
    frames = torch.from_numpy(data.frames(0, 0, 3))[None]
    actions = torch.from_numpy(data.episode(0).actions[:2])[None]
    expected = world.log_prob(frames, actions), world.context(frames, actions)
    torch.set_default_dtype(torch.float64)
    try:
        found = world.log_prob(frames, actions), world.context(frames, actions)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found[0].dtype == torch.float32
    assert torch.equal(found[0], expected[0])
    assert all(torch.equal(getattr(found[1], name), value) for name, value in vars(expected[1]).items())


def test_training_does_not_depend_on_the_default_dtype(
    world_dir: Path, data: Dataset, tmp_path: Path, default_dtype: torch.dtype
) -> None:
    world = train_world(data, tmp_path / "world", short(4), device="cpu")
    assert torch.get_default_dtype() == default_dtype
    torch.set_default_dtype(torch.float32)
    assert_equal(world, WorldModel.from_pretrained(world_dir))


@pytest.mark.parametrize("name", ["load", "load tokenizer", "refuse", "train", "train prior", "evaluate"])
def test_the_global_generator_stays_unchanged(name: str, world_dir: Path, data: Dataset, tmp_path: Path) -> None:
    def refuse() -> None:
        with pytest.raises(UserError):
            WorldModel.from_pretrained(tmp_path)

    calls: dict[str, Callable[[], object]] = {
        "load": lambda: WorldModel.from_pretrained(world_dir),
        "load tokenizer": lambda: TokenizerCheckpoint.from_pretrained(world_dir),
        "refuse": refuse,
        "train": lambda: train_tokenizer(data, tmp_path / "t", short(3), device="cpu"),
        "train prior": lambda: train_prior(world_dir, data, tmp_path / "w", short(3), device="cpu"),
        "evaluate": lambda: evaluate(WorldModel.from_pretrained(world_dir), data, {}, SETTINGS),
    }
    before = torch.get_rng_state()
    threads = torch.get_num_threads()
    calls[name]()
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_evaluation_does_not_depend_on_the_default_dtype(world_dir: Path, data: Dataset) -> None:
    world = WorldModel.from_pretrained(world_dir)
    expected = evaluate(world, data, {}, SETTINGS)
    torch.set_default_dtype(torch.float64)
    try:
        assert evaluate(world, data, {}, SETTINGS) == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_world_loaded_in_inference_mode_can_be_trained(world_dir: Path, data: Dataset) -> None:
    with torch.inference_mode():
        world = WorldModel.from_pretrained(world_dir)
        assert torch.is_inference_mode_enabled()
    assert not any(tensor.is_inference() for tensor in world.state_dict().values())
    batch = torch.from_numpy(data.frames(0, 0, 2))[None]
    world.tokenizer.train().loss(batch, torch.ones(1, 2, dtype=torch.bool))["loss"].backward()


def test_a_world_loads_on_the_cpu_whatever_the_default_device(world_dir: Path) -> None:
    with torch.device("meta"):
        world = WorldModel.from_pretrained(world_dir)
        assert torch.get_default_device().type == "meta"
    assert_equal(world, WorldModel.from_pretrained(world_dir))


def test_a_block_that_raises_restores_the_state() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)

    @isolated_torch_state()
    def fail() -> None:
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float64)
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.rand(2), expected)
