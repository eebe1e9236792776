"""Episodes without actions: files of plain videos, and worlds that were learned from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from recordings import make_file, make_header
from untrained import make_world

from worldmodel.cli.action_text import parse_actions
from worldmodel.collect.learner_envs import check_algorithm
from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.data import ClipSampler, Dataset, contact_sheet, format_summary, gif, merge, summarize
from worldmodel.data.verification import verify
from worldmodel.dream.dream_env import DreamEnv
from worldmodel.dream.plan_distributions import initial_distribution
from worldmodel.dream.simulator import Simulator
from worldmodel.world.world_model import WorldModel

SPACE = spaces.NoAction()


def test_the_space_is_read_as_written() -> None:
    assert spaces.from_json(SPACE.to_json()) == SPACE
    assert spaces.from_gymnasium(spaces.to_gymnasium(SPACE)) == SPACE
    assert SPACE.sample(np.random.default_rng(0)).shape == (0,)
    assert spaces.check_actions(SPACE, np.zeros((5, 0), np.int64)).shape == (5, 0)
    with pytest.raises(UserError, match=r"got shape \(5, 1\)"):
        spaces.check_actions(SPACE, np.zeros((5, 1), np.int64))


def test_files_are_verified_previewed_summarised_and_merged(tmp_path: Path) -> None:
    path, episodes = make_file(tmp_path, action_space=SPACE)
    other, more = make_file(tmp_path, name="b.h5", seed=8, action_space=SPACE)
    merged = merge([path, other], tmp_path / "m.h5")
    assert verify(path).num_episodes == 12
    assert verify(merged).num_episodes == 24
    with Dataset(merged) as data:
        assert list(data.episodes_iter()) == episodes + more
        assert ClipSampler(data, 2, 4).batch(0).actions.shape == (4, 1, 0)
        assert "actions" not in format_summary(summarize(data)).split("length")[-1]
        assert contact_sheet(data, tmp_path / "a.png").exists()
        assert gif(data, tmp_path / "a.gif").exists()
    with Dataset(path, cache="ram") as data:
        assert data.episode(3).actions.shape == (episodes[3].length, 0)


@pytest.mark.parametrize("flat", [False, True])
def test_a_world_without_actions_is_saved_loaded_and_stepped(tmp_path: Path, flat: bool) -> None:
    make_world(SPACE, flat).save_pretrained(tmp_path / "world")
    world = WorldModel.from_pretrained(tmp_path / "world")
    assert world.spec.action_space == SPACE
    simulator = Simulator(world, 2, seed=0)
    simulator.reset()
    frames = simulator.rollout(torch.zeros(2, 3, 0, dtype=torch.int64)).frames
    assert frames.shape[:2] == (2, 4)
    env = DreamEnv(world)
    env.reset(seed=0)
    assert env.step(env.action_space.sample())[0].shape == (16, 16, 3)
    with pytest.raises(UserError, match="there is nothing to learn"):
        check_algorithm("ppo", spaces.from_gymnasium(env.action_space))
    with pytest.raises(UserError, match="there is nothing to plan"):
        initial_distribution(SPACE, 3, torch.device("cpu"))
    with pytest.raises(UserError, match="videos without actions"):
        parse_actions("0*3", SPACE)


def test_the_header_has_the_space() -> None:
    assert make_header(action_space=SPACE).to_json()["action_space"] == {"kind": "none"}
