"""The shipped worlds: they load by name, can be stepped, and a policy that learns in one works in the environment."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import worldmodel
from worldmodel.collect import record
from worldmodel.collect.collect_command import collect
from worldmodel.collect.collect_config import Collect, TrainPolicy
from worldmodel.collect.env_options import EnvOptions
from worldmodel.collect.learner_config import LearnerConfig
from worldmodel.collect.policy_evaluation import evaluate
from worldmodel.collect.policy_specs import describe_policy_file
from worldmodel.collect.policy_training import TEST_SEED, train_policy
from worldmodel.common.errors import UserError
from worldmodel.data import Dataset
from worldmodel.dream import DreamVecEnv
from worldmodel.envs import toy_optimum
from worldmodel.metrics import EvaluationSettings
from worldmodel.metrics import evaluate as evaluate_world
from worldmodel.train.trainers import train_prior
from worldmodel.train.training_config import LoopConfig, PriorTraining
from worldmodel.world.hub import SHIPPED_WORLDS, find_world, shipped_worlds
from worldmodel.world.world_model import WorldModel


@pytest.mark.parametrize("name", shipped_worlds())
def test_a_shipped_world_is_small_and_a_valid_environment(name: str) -> None:
    assert sum(path.stat().st_size for path in (SHIPPED_WORLDS / name).rglob("*")) <= 8 * 10**6
    env = gymnasium.make(worldmodel.DREAM_ID, world=name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(env.unwrapped, skip_render_check=True)
    first, _ = env.reset(seed=3)
    again, _ = env.reset(seed=3)
    np.testing.assert_array_equal(first, again)
    assert f"| `{name}` |" in (SHIPPED_WORLDS / "README.md").read_text(), "how it was made"


def test_a_directory_takes_precedence_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_world("toy") == SHIPPED_WORLDS / "toy"
    (tmp_path / "toy").mkdir()
    assert find_world("toy") == Path("toy")
    with pytest.raises(UserError, match=r"no world directory nowhere.*comes with the package: .*toy"):
        find_world("nowhere")
    with pytest.raises(UserError, match=r"has no config\.json"):
        DreamVecEnv("toy", 2)


@pytest.mark.slow
def test_a_policy_trained_in_the_shipped_toy_beats_every_open_loop_policy(tmp_path: Path) -> None:
    """A short form of the test in test_toy_dream: a sixth of its decisions, so far below the optimum."""
    learner = LearnerConfig(
        num_envs=32, decisions=10_000, learning_rate=3e-3, gamma=0.97, rollout_steps=16, batch_size=256,
        checkpoint_seconds=600,
    )  # fmt: skip
    env_options = EnvOptions(size=(16, 16))
    policy = train_policy(
        TrainPolicy(tmp_path / "policy", "toy", 0, env_options, learner, world=Path("toy"), test_episodes=0)
    )
    policies = {"dreamer": describe_policy_file(policy)}
    returns = evaluate(policies, "toy", env_options.kwargs(), 40, TEST_SEED, 1)[0]["returns"]
    assert np.mean(returns) >= 3 * toy_optimum.best_open_loop_return()


def test_a_training_begins_with_a_shipped_world(tmp_path: Path) -> None:
    path = record("toy", "random", tmp_path / "toy.h5", episodes=4, size=16, progress=False)
    source = WorldModel.from_pretrained("toy")
    loop = LoopConfig(num_steps=1, batch_size=2, clip_length=source.prior.window + 1, learning_rate=1e-12)
    config = PriorTraining(prior=source.prior.config, train_prior=loop, num_starts=1)
    world = train_prior("toy", path, tmp_path / "world", config, init_from="toy")
    assert torch.equal(world.tokenizer.codebook.embeddings, source.tokenizer.codebook.embeddings)
    torch.testing.assert_close(world.prior.code_head.weight, source.prior.code_head.weight, atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "preset", "nats"),
    [
        ("doom-take-cover-small", "take-cover-mixed", 2.5),
        ("doom-hgs-small", "health-gathering-supreme-mixed", 3.9),
        ("push-small", "push-mixed", 1.9),
    ],
)
def test_a_shipped_world_predicts_new_recordings_as_its_card_claims(
    name: str, preset: str, nats: float, tmp_path: Path
) -> None:
    path = tmp_path / "new.h5"
    collect(replace(Collect.PRESETS[preset], out=path, episodes=12, seed=7, workers=1))
    with Dataset(path) as data:
        settings = EvaluationSettings(split="train", clips=32, metrics=("nats",))
        sections = evaluate_world(WorldModel.from_pretrained(name), data, {}, settings)["sections"]
    value = sections["likelihood"]["nats"]["values"][0]
    assert value["value"]["mean"] < nats, "the card's figure, with room for other episodes and policies"
    assert value["value"]["mean"] + 0.4 < value["baselines"]["other actions"]["mean"]
