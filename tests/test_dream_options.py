"""Arguments of a dream's interfaces: numpy numbers are accepted, and every mistake is refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from untrained import SIDE, make_world

from worldmodel.common.errors import UserError
from worldmodel.dream import DreamEnv, DreamLearnerEnv, DreamVecEnv, DreamVectorEnv, Simulator
from worldmodel.dream.dream_options import DreamKeywords, DreamOptions
from worldmodel.dream.learner_vec_env import LearnerKeywords, LearnerOptions
from worldmodel.onnx import OnnxSimulator
from worldmodel.world.world_model import WorldModel

FRAME = np.zeros((1, SIDE, SIDE, 3), np.uint8)
INTERFACES: dict[str, Callable[..., Any]] = {
    "DreamEnv": lambda world, **options: DreamEnv(world, **options),
    "DreamVectorEnv": lambda world, **options: DreamVectorEnv(2, world=world, **options),
    "DreamVecEnv": lambda world, **options: DreamVecEnv(world, 2, **options),
    "DreamLearnerEnv": lambda world, **options: DreamLearnerEnv(world, 2, **options),
}


@pytest.fixture(scope="module")
def world() -> WorldModel:
    return make_world(hazard=-30.0)


@pytest.mark.parametrize(("options", "keywords"), [(DreamOptions, DreamKeywords), (LearnerOptions, LearnerKeywords)])
def test_the_keywords_of_a_constructor_are_the_fields_of_its_options(options: Any, keywords: Any) -> None:
    assert [field.name for field in fields(options)] == list(keywords.__annotations__)


@pytest.mark.parametrize("interface", INTERFACES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": True}, "horizon=True: wanted a number of steps"),
        ({"horizon": 2.5}, r"horizon=2\.5: wanted a number of steps"),
        ({"horizon": 0}, "horizon=0: wanted"),
        ({"horizon": -3}, "horizon=-3: wanted"),
        ({"horizon": "record"}, "horizon='record': wanted"),
        ({"temprature": 0.5}, "Did you mean 'temperature'"),
        ({"temperature": -1.0}, "temperature"),
    ],
    ids=str,
)
def test_a_wrong_option_is_refused_by_every_interface(
    interface: str, options: dict[str, Any], message: str, world: WorldModel
) -> None:
    with pytest.raises(UserError, match=message):
        INTERFACES[interface](world, **options)


@pytest.mark.parametrize("interface", ["DreamEnv", "DreamVectorEnv", "DreamVecEnv"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 2.5}, r"top_k=2\.5: wanted an integer of at least 0"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_p": 0.0}, "top_p"),
        ({"starts": "episodes"}, "wanted 'episode' or 'any'"),
        ({"info": "code"}, "Did you mean 'codes'"),
        ({"backend": "onxx"}, "Did you mean 'onnx'"),
        ({"render_mode": "rgb"}, "Did you mean 'rgb_array'"),
    ],
    ids=str,
)
def test_a_wrong_option_of_sampling_or_rendering_is_refused(
    interface: str, options: dict[str, Any], message: str, world: WorldModel
) -> None:
    with pytest.raises(UserError, match=message):
        INTERFACES[interface](world, **options)


@pytest.mark.parametrize("interface", INTERFACES)
def test_a_device_that_is_not_there_is_refused(interface: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"torch finds (0|no) CUDA device"):
        INTERFACES[interface]("toy", device="cuda")
    with pytest.raises(UserError, match=r"wanted auto, cpu(,| or) cuda"):
        INTERFACES[interface]("toy", device="graphics card")


@pytest.mark.parametrize("num_envs", [0, -1, 2.5, True, "2", None])
def test_a_wrong_number_of_rows_is_refused(num_envs: Any, world: WorldModel) -> None:
    makers: tuple[Callable[[], Any], ...] = (
        lambda: DreamVectorEnv(num_envs, world=world),
        lambda: DreamVecEnv(world, num_envs),
        lambda: DreamLearnerEnv(world, num_envs),
        lambda: Simulator(world, num_envs),
        lambda: OnnxSimulator("nowhere", num_envs),
    )
    for make in makers:
        with pytest.raises(UserError, match=r"num_(envs|rows)=.*: wanted an integer of at least 1"):
            make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strat": 1}, "unknown reset option 'strat'. Did you mean 'start'"),
        ({"start": 1.5}, r"start=.*1\.5.*: wanted an integer"),
        ({"start": True}, "start=.*True.*: wanted an integer"),
        ({"start": -1}, "this world has starts 0 to 9"),
        ({"start": 10}, "this world has starts 0 to 9"),
    ],
    ids=str,
)
def test_a_wrong_option_of_a_reset_is_refused(options: dict[str, Any], message: str, world: WorldModel) -> None:
    vec_env = DreamVecEnv(world, 2)
    vec_env.set_options(options)
    for reset in (
        lambda: DreamEnv(world).reset(options=options),
        lambda: DreamVectorEnv(2, world=world).reset(options=options),
        vec_env.reset,
    ):
        with pytest.raises(UserError, match=message):
            reset()


def test_a_reset_to_given_frames_is_for_one_dream(world: WorldModel) -> None:
    env = DreamEnv(world)
    with pytest.raises(UserError, match="are those between 'frames'; give both"):
        env.reset(options={"actions": [1]})
    with pytest.raises(UserError, match="got a start and frames"):
        env.reset(options={"start": 1, "frames": FRAME})
    for options in ({"frames": FRAME}, {"actions": [1]}):
        with pytest.raises(UserError, match="are taken by DreamEnv, for one dream"):
            DreamVectorEnv(2, world=world).reset(options=options)


@pytest.mark.parametrize("start", [[1.0, 2.0], [1], [1, 2, 3], [[1, 2]], ["a", "b"]], ids=str)
def test_wrong_starts_of_rows_are_refused(start: Any, world: WorldModel) -> None:
    with pytest.raises(UserError, match=r"wanted an integer, or \(2,\) integers"):
        DreamVectorEnv(2, world=world).reset(options={"start": start})


@pytest.mark.parametrize("seed", [-1, 1.5, True, "1"], ids=str)
def test_a_wrong_seed_is_refused(seed: Any, world: WorldModel) -> None:
    for reset in (DreamEnv(world).reset, DreamVectorEnv(2, world=world).reset):
        with pytest.raises(UserError, match=r"seed=.*: wanted an integer of at least 0"):
            reset(seed=seed)
    with pytest.raises(UserError, match="seed="):
        DreamVectorEnv(2, world=world).reset(seed=[1, seed])


def test_starts_and_seeds_of_a_simulator_are_integers(world: WorldModel) -> None:
    simulator = Simulator(world, 2)
    for wrong in (torch.tensor([0.5, 1.0]), torch.tensor([True, False])):
        with pytest.raises(UserError, match=r"starts: got torch\.(float32|bool), wanted integers"):
            simulator.reset(starts=wrong)
        with pytest.raises(UserError, match=r"seeds: got torch\.(float32|bool), wanted integers"):
            simulator.seed(wrong)


@pytest.mark.parametrize("integer", [np.int64, np.int32, np.uint8], ids=lambda x: x.__name__)
def test_numpy_integers_are_taken(integer: Any, world: WorldModel) -> None:
    two = integer(2)
    single = DreamEnv(world, horizon=two, top_k=two)
    expected, _ = DreamEnv(world, horizon=2, top_k=2).reset(seed=2, options={"start": 2})
    np.testing.assert_array_equal(single.reset(seed=two, options={"start": two})[0], expected)
    assert [single.step(integer(1))[3] for _ in range(2)] == [False, True]
    vector = DreamVectorEnv(two, world=world, horizon=two)
    frames, info = vector.reset(seed=two, options={"start": two})
    assert frames.shape == (2, SIDE, SIDE, 3)
    assert info["start"].tolist() == [2, 2]
    assert vector.reset(seed=np.array([1, 2], integer))[1]["start"].shape == (2,)
    vec_env = DreamVecEnv(world, two, horizon=two)
    vec_env.set_options({"start": two})
    assert vec_env.reset().shape == (2, SIDE, SIDE, 3)
    learner = DreamLearnerEnv(world, two, frame_stack=two, hold=two, horizon=two, seed=two)
    assert learner.reset().shape == (2, 6, SIDE, SIDE)
    assert Simulator(world, two, threads=two).num_rows == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frame_stack": 0}, "frame_stack=0: wanted an integer of at least 1"),
        ({"frame_stack": 1.5}, r"frame_stack=1\.5"),
        ({"hold": True}, "hold=True"),
        ({"reward": "stat"}, "Did you mean 'status'"),
        ({"view": (0, 8, 0, 99)}, "is not inside the frame"),
        ({"framestack": 2}, "Did you mean 'frame_stack'"),
    ],
    ids=str,
)
def test_a_wrong_option_of_a_learners_dreams_is_refused(
    options: dict[str, Any], message: str, world: WorldModel
) -> None:
    with pytest.raises(UserError, match=message):
        DreamLearnerEnv(world, 2, **options)
