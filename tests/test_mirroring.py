"""Mirroring: flipped frames with the actions that belong to them, in environments and in the training of worlds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from slider import SLIDER, SliderEnv, mirrored_copy
from square import record_square, short

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.common.mirroring import ActionMirror, action_mirror, declare_mirror, flip_rows
from worldmodel.common.pixels import PixelSpec
from worldmodel.data import Dataset
from worldmodel.envs import rows
from worldmodel.envs.doom_battle import ACTION_SPACE
from worldmodel.train import train_prior, train_world
from worldmodel.train.clip_training_config import ClipTraining
from worldmodel.train.code_cache import CodeCache, encode_dataset
from worldmodel.train.loop import Loop
from worldmodel.train.mirror_augmentation import mirrored_clips
from worldmodel.world.world_model import WorldModel

WHOLE = PixelSpec((64, 64))
RULES: dict[str, tuple[spaces.Space, Any, Any]] = {
    "discrete": (spaces.Discrete(3), ("noop", "right", "left"), (("left", "right"),)),
    "combinations": (
        spaces.Discrete(6),
        ("noop", "left", "right", "attack", "left+attack", "attack+right"),
        (("left", "right"),),
    ),
    "multi_discrete": (spaces.MultiDiscrete((2, 5)), ("attack", "turn"), (("turn=0", "turn=4"), ("turn=1", "turn=3"))),
    "named_choices": (spaces.MultiDiscrete((2, 2)), (("a", "b"), ("left", "right")), (("left", "right"),)),
    "multi_binary": (spaces.MultiBinary(3), ("left", "jump", "right"), (("left", "right"),)),
    "box": (spaces.Box((-1.0, 0.0), (1.0, 2.0)), ("x", "gas"), (("x",),)),
    "no_action": (spaces.NoAction(), (), ()),
}


@pytest.fixture(autouse=True)
def declared() -> Iterator[None]:
    """The slider and the square declare mirrors during a test."""
    declare_mirror(SLIDER.id, SLIDER.mirror)
    declare_mirror("test/Square-v0", (("stay", "move"),))
    yield
    for env in (SLIDER.id, "test/Square-v0", "test/Rule-v0"):
        declare_mirror(env, None)


def rule(space: spaces.Space, labels: Any, pairs: Any) -> ActionMirror:
    declare_mirror("test/Rule-v0", pairs)
    return action_mirror("test/Rule-v0", space, labels, WHOLE)


@pytest.mark.parametrize("name", RULES)
def test_mirroring_twice_is_the_identity(name: str) -> None:
    space, rng = RULES[name][0], np.random.default_rng(0)
    mirror = rule(*RULES[name])
    actions = np.stack([space.sample(rng) for _ in range(50)])
    mirrored = mirror(actions)
    spaces.check_actions(space, mirrored)
    assert mirrored.dtype == actions.dtype
    np.testing.assert_array_equal(mirror(mirrored), actions)
    assert name == "no_action" or not np.array_equal(mirrored, actions)
    chosen = np.arange(50) % 2 == 0
    np.testing.assert_array_equal(mirror.rows(actions, chosen)[~chosen], actions[~chosen])
    np.testing.assert_array_equal(mirror.rows(actions, chosen)[chosen], mirrored[chosen])


def test_labels_decide_which_actions_are_exchanged() -> None:
    assert rule(*RULES["discrete"])(np.arange(3)).tolist() == [0, 2, 1]
    assert rule(*RULES["combinations"])(np.arange(6)).tolist() == [0, 2, 1, 3, 5, 4]
    assert rule(*RULES["multi_discrete"])(np.array([[1, 0], [0, 2], [1, 3]])).tolist() == [[1, 4], [0, 2], [1, 1]]
    assert rule(*RULES["multi_binary"])(np.array([1, 1, 0])).tolist() == [0, 1, 1]
    assert rule(*RULES["box"])(np.array([0.5, 1.5], np.float32)).tolist() == [-0.5, 1.5]


@pytest.mark.parametrize("row", [row for row in rows() if row.mirror is not None], ids=lambda row: row.name)
def test_declared_mirrors_fit_the_actions_of_their_environment(row: Any) -> None:
    battle = row.name in ("doom/battle", "doom/battle2")
    space: spaces.Space = ACTION_SPACE if battle else spaces.Discrete(len(row.action_labels))
    mirror = action_mirror(row.id, space, row.action_labels, WHOLE)
    actions = np.stack([space.sample(np.random.default_rng(i)) for i in range(40)])
    np.testing.assert_array_equal(mirror(mirror(actions)), actions)
    assert not np.array_equal(mirror(actions), actions)


def test_mirrored_actions_give_mirrored_frames_in_a_symmetric_environment() -> None:
    env = SliderEnv()
    frame, _ = env.reset(seed=3)
    other = mirrored_copy(env)
    mirror = action_mirror(SLIDER.id, env.meta.action_space, SLIDER.action_labels, env.meta.pixels)
    rng, frames = np.random.default_rng(0), [frame]
    for _ in range(8):
        action = env.meta.action_space.sample(rng)
        frame, reward, terminated, *_ = env.step(action)
        mirrored_frame, mirrored_reward, mirrored_end, *_ = other.step(mirror(action))
        np.testing.assert_array_equal(frame[:, ::-1], mirrored_frame)
        assert (reward, terminated) == (mirrored_reward, mirrored_end)
        frames.append(frame)
        if terminated:
            break
    clips = np.stack([np.stack(frames)] * 2)
    flipped = flip_rows(clips, np.array([True, False]))
    np.testing.assert_array_equal(flipped[0], clips[0, :, :, ::-1])
    np.testing.assert_array_equal(flipped[1], clips[1])


def test_what_cannot_be_mirrored_is_refused_in_a_sentence() -> None:
    space = spaces.Discrete(3)
    with pytest.raises(UserError, match=r"worldmodel/Toy-v0 does not declare"):
        action_mirror("worldmodel/Toy-v0", space, ("a", "b", "c"), WHOLE)
    with pytest.raises(UserError, match=r"crop=\(0, 64, 10, 64\) is not symmetric in 64 columns"):
        action_mirror(SLIDER.id, space, SLIDER.action_labels, PixelSpec((64, 64), (0, 64, 10, 64)))
    with pytest.raises(UserError, match=r"tokenizer.encoded=\(0, 64, 0, 56\) is not symmetric"):
        action_mirror(SLIDER.id, space, SLIDER.action_labels, WHOLE, (0, 64, 0, 56))
    action_mirror(SLIDER.id, space, SLIDER.action_labels, PixelSpec((64, 64), (20, 52, 8, 56)), (8, 24, 8, 40))
    with pytest.raises(UserError, match="mirrored action 'left'"):
        action_mirror(SLIDER.id, space, ("stay", "lift", "right"), WHOLE)
    with pytest.raises(UserError, match="symmetric about 0"):
        rule(spaces.Box((-1.0,), (2.0,)), ("x",), (("x",),))
    with pytest.raises(UserError, match="wanted 1 label"):
        rule(spaces.Box((-1.0, -1.0), (1.0, 1.0)), ("x", "y"), (("x", "y"),))
    with pytest.raises(UserError, match="clip models have no mirror augmentation"):
        dataclasses.replace(ClipTraining(), mirror=True)


# -- training ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    torch.set_num_threads(1)
    return record_square(tmp_path_factory.mktemp("data") / "square.h5", 40)


@pytest.fixture(scope="module")
def world_dir(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    declare_mirror("test/Square-v0", (("stay", "move"),))
    out = tmp_path_factory.mktemp("world") / "mirrored"
    train_world(data, out, dataclasses.replace(short(8, validations=0), mirror=True))
    return out


def test_half_of_the_clips_are_mirrored_and_which_ones_depends_on_seed_and_step() -> None:
    first, again, other = mirrored_clips(0, 64, False), mirrored_clips(0, 64, False), mirrored_clips(1, 64, False)
    share = np.mean([first(step) for step in range(50)])
    assert 0.47 < share < 0.53
    np.testing.assert_array_equal(first(7), again(7))
    assert not np.array_equal(first(7), first(8))
    assert not np.array_equal(first(7), other(7))
    one_batch = mirrored_clips(0, 64, True)
    np.testing.assert_array_equal(one_batch(7), first(0))


def test_the_prior_is_trained_on_codes_of_flipped_frames_and_mirrored_actions(
    data: Dataset, world_dir: Path, tmp_path: Path
) -> None:
    world = WorldModel.from_pretrained(world_dir)
    codes = encode_dataset(data, world.tokenizer, tmp_path / "codes.npy")
    flipped = encode_dataset(data, world.tokenizer, tmp_path / "flipped.npy", flipped=True)
    header = data.header
    mirror = action_mirror(header.env, header.action_space, header.action_labels, header.pixels)
    cache = CodeCache(data, codes, world.prior.num_codes, world.prior.status_config, flipped, mirror)
    episodes, starts, mirrored = np.array([0, 1, 2]), np.zeros(3, np.int64), np.array([True, False, True])
    clip = cache.clip(episodes, starts, 3, mirrored=mirrored)
    frames = np.stack([data.frames(e, 0, 3) for e in range(3)])
    wanted = world.tokenizer.encode(torch.from_numpy(flip_rows(frames, mirrored)))
    torch.testing.assert_close(clip.codes, wanted, rtol=0, atol=0)
    recorded = cache.clip(episodes, starts, 3)
    torch.testing.assert_close(clip.actions[mirrored], 1 - recorded.actions[mirrored], rtol=0, atol=0)
    torch.testing.assert_close(clip.actions[1], recorded.actions[1], rtol=0, atol=0)
    plain = CodeCache(data, codes, world.prior.num_codes, world.prior.status_config)
    train = data.episodes_of("train")
    assert cache.code_counts(train).sum() == 2 * plain.code_counts(train).sum()


@pytest.mark.parametrize("stop_at", [("tokenizer", 4), ("prior", 3)])
def test_a_stopped_training_with_mirrored_clips_continues_as_if_never_stopped(
    stop_at: tuple[str, int], data: Dataset, world_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    update = Loop.update

    def stop(self: Loop) -> None:
        if (self.stage, self.step) == stop_at:
            raise Stop
        update(self)

    config = dataclasses.replace(short(8, validations=0), mirror=True)
    monkeypatch.setattr(Loop, "update", stop)
    with pytest.raises(Stop):
        train_world(data, tmp_path / "w", config)
    monkeypatch.setattr(Loop, "update", update)
    continued, whole = train_world(data, tmp_path / "w", config), WorldModel.from_pretrained(world_dir)
    for name, tensor in continued.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name]), name


def test_mirroring_changes_the_training_and_its_absence_does_not_change_the_run(
    data: Dataset, world_dir: Path, tmp_path: Path
) -> None:
    plain = train_prior(world_dir, data, tmp_path / "plain", short(8, validations=0))
    mirrored = WorldModel.from_pretrained(world_dir)
    assert any(
        not torch.equal(a, b) for a, b in zip(plain.prior.parameters(), mirrored.prior.parameters(), strict=True)
    )
    assert "mirror" not in (tmp_path / "plain" / "training" / "run.json").read_text()
    assert '"mirror": true' in (world_dir / "training" / "run.json").read_text()


def test_a_training_that_cannot_be_mirrored_is_refused_before_it_starts(data: Dataset, tmp_path: Path) -> None:
    config = dataclasses.replace(short(8), mirror=True)
    declare_mirror("test/Square-v0", None)
    with pytest.raises(UserError, match="does not declare"):
        train_world(data, tmp_path / "w", config)
    declare_mirror("test/Square-v0", (("stay", "move"),))
    part = dataclasses.replace(config, tokenizer=dataclasses.replace(config.tokenizer, encoded=(0, 16, 0, 8)))
    with pytest.raises(UserError, match="not symmetric in 16 columns"):
        train_world(data, tmp_path / "w", part)
    assert not (tmp_path / "w.training").exists()
