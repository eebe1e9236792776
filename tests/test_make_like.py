"""The environment of a world or dataset is made again, and a policy moves between it and the dream."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from worldmodel import envs
from worldmodel.collect import policy_training, record
from worldmodel.collect.collect_config import TrainPolicy
from worldmodel.collect.env_options import EnvOptions, choose_env
from worldmodel.collect.learner_view import SmallEncoder
from worldmodel.common.errors import UserError
from worldmodel.data import Dataset
from worldmodel.dream import DreamVecEnv
from worldmodel.world.hub import SHIPPED_WORLDS
from worldmodel.world.world_model import WorldModel

COVER = "doom-take-cover-small"


def test_the_same_policy_plays_the_dream_and_both_environments(tmp_path: Path) -> None:
    pytest.importorskip("vizdoom")
    torch.set_num_threads(1)
    PPO("CnnPolicy", DreamVecEnv(COVER, 2), n_steps=4, batch_size=8, n_epochs=1).learn(8).save(tmp_path / "p")
    dream = DreamVecEnv(COVER, 1)
    places = [dream, DummyVecEnv([lambda: gymnasium.make("worldmodel/DoomTakeCover-v0")])]
    places.append(DummyVecEnv([lambda: envs.make_like(COVER)]))
    for place in places:
        assert place.observation_space == dream.observation_space == gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
        model = PPO.load(tmp_path / "p", env=place)  # SB3 checks both spaces
        frames: Any = place.reset()
        for _ in range(3):
            actions, _ = model.predict(frames)
            frames, _, _, _ = place.step(actions)
            assert frames.shape == (1, 64, 64, 3)
        place.close()


def test_frames_that_are_too_small_for_cnn_policy_give_a_warning() -> None:
    with pytest.warns(UserWarning, match="16 x 16 pixels, .* needs 36 x 36: use Mlp"):
        dream = DreamVecEnv("toy", 2)
    settings: dict[str, Any] = {"n_steps": 4, "batch_size": 8, "n_epochs": 1}
    PPO("CnnPolicy", dream, policy_kwargs={"features_extractor_class": SmallEncoder}, **settings).learn(8)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "toy.h5"
    record("toy", "random", path, episodes=2, progress=False, size=(24, 32), crop=(0, 16, 8, 32), max_steps=7)
    return path


def test_size_crop_and_every_argument_are_those_of_the_recording(dataset: Path) -> None:
    for source in (dataset, str(dataset), Dataset(dataset)):
        env = envs.make_like(source)
        assert env.meta.pixels == Dataset(dataset).header.pixels
        assert env.meta.max_steps == 7
        frame, _ = env.reset(seed=Dataset(dataset).episode(0).seed)
        np.testing.assert_array_equal(frame, Dataset(dataset).episode(0).frames[0])
    assert envs.make_like(dataset, max_steps=3, render_mode="rgb_array").meta.max_steps == 3
    for world in ("toy", SHIPPED_WORLDS / "toy", WorldModel.from_pretrained("toy")):
        assert envs.make_like(world).observation_space.shape == (16, 16, 3)


def test_gymnasium_environments_are_made_again(tmp_path: Path) -> None:
    pytest.importorskip("pygame")
    record("CartPole-v1", "random", tmp_path / "c.h5", episodes=2, size=16, max_steps=5, progress=False)
    assert envs.make_like(tmp_path / "c.h5").meta.kwargs == Dataset(tmp_path / "c.h5").header.env_kwargs


def test_what_names_no_environment_is_refused(tmp_path: Path) -> None:
    for source, words in (
        (3, "wanted a world, a dataset"),
        (tmp_path / "none", "there is no world directory"),
        (tmp_path, "is not of a world"),
    ):
        with pytest.raises(UserError, match=words):
            envs.make_like(source)
    shutil.copytree(SHIPPED_WORLDS / "toy", tmp_path / "wrapped")
    config = json.loads((tmp_path / "wrapped" / "config.json").read_text())
    config["spec"]["env_kwargs"]["wrappers"] = ["Flicker"]
    (tmp_path / "wrapped" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="inside the wrappers Flicker"):
        envs.make_like(tmp_path / "wrapped")


def test_commands_with_a_world_use_its_environment(dataset: Path) -> None:
    world = SHIPPED_WORLDS / "toy"
    arguments = {"size": (16, 16), "crop": None, "max_steps": 40}
    assert choose_env("", world, EnvOptions()) == ("toy", arguments)
    assert choose_env("worldmodel/Toy-v0", world, EnvOptions(max_steps=9))[1] == {**arguments, "max_steps": 9}
    assert choose_env("toy/continuous", world, EnvOptions()) == ("toy/continuous", {})
    assert choose_env("", None, EnvOptions(crop=(0, 8, 0, 8))) == ("doom/take-cover", {"crop": (0, 8, 0, 8)})
    assert TrainPolicy(Path("p"), world=world).env_name == "toy"
    assert (
        TrainPolicy.defaults(["--world", str(world)]).learner
        == TrainPolicy.defaults(["--world", str(world), "--env", "toy"]).learner
    )


def test_a_policy_of_a_world_is_tested_in_the_environment_of_the_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: dict[str, Any] = {}

    def evaluate(policies: Any, env: str, env_kwargs: dict[str, Any], *_: Any, **__: Any) -> list[dict[str, Any]]:
        called.update(policies=list(policies), env=env, env_kwargs=env_kwargs)
        return []

    monkeypatch.setattr("worldmodel.collect.policy_evaluation.evaluate", evaluate)
    monkeypatch.setattr("worldmodel.collect.policy_specs.parse_policy", lambda text, *_: text)
    policy_training._test(TrainPolicy(tmp_path, world=SHIPPED_WORLDS / "toy"))
    arguments = {"size": (16, 16), "crop": None, "max_steps": 40}
    assert called == {"policies": ["dreamer", "random", "periodic"], "env": "toy", "env_kwargs": arguments}
