"""Episodes and headers: validation, JSON, CRC."""

from __future__ import annotations

import dataclasses
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import SPACES, make_episode, make_header

from worldmodel.common.errors import UserError
from worldmodel.data import Header, PartWriter


def test_header_round_trip_and_strictness() -> None:
    for space in SPACES:
        header = make_header(action_space=space, env_kwargs={"a": (1, 2)}, action_labels=[["x"], ["y", "z"]])
        assert Header.from_json(json.loads(header.text())) == header
        assert header.env_kwargs == {"a": [1, 2]}
    spec = make_header().to_json()
    with pytest.raises(UserError, match="version 3; this code reads versions 1 and 2"):
        Header.from_json(spec | {"version": 3})
    with pytest.raises(UserError, match=r"unknown fields \['colour'\]"):
        Header.from_json(spec | {"colour": 1})
    spec.pop("seed")
    with pytest.raises(UserError, match=r"lacks \['seed'\]"):
        Header.from_json(spec)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"policies": ()}, "at least one, each name once"),
        ({"shard": (2, 2)}, "0 <= i < n"),
        ({"frame_skip": 0}, "at least 1"),
        ({"seed": -1}, r"2\*\*63"),
        ({"env_kwargs": {"a": object()}}, "cannot be stored as JSON"),
        ({"variables": ("a", "a")}, "each name once"),
    ],
)
def test_header_is_checked(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make_header(**changes)


def test_shards_partition_the_indices() -> None:
    shards = [make_header(num_episodes=11, shard=(i, 3)).indices for i in range(3)]
    assert sorted(e for shard in shards for e in shard) == list(range(11))


def changed_field(name: str, at: Any, value: Any) -> Any:
    array = np.array(getattr(make_episode(make_header(), 1), name))
    array[at] = value
    return array


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"frames": np.zeros((4, 4, 6, 3), np.float32)}, "frames has dtype float32; wanted uint8"),
        ({"frames": np.zeros((4, 4, 6, 4), np.uint8)}, r"wanted \(any, any, any, 3\)"),
        ({"frames": np.zeros((1, 4, 6, 3), np.uint8)}, "at least two frames"),
        ({"frame_valid": np.ones(3, bool)}, r"frame_valid has shape \(3,\); wanted \(4,\)"),
        ({"actions": np.zeros(3, np.int32)}, "int32; wanted int64"),
        ({"actions": [0, 0, 0]}, "actions is a list; wanted a numpy array"),
        ({"actions": np.zeros((2, 2), np.float32)}, r"wanted \(3, any\)"),
        ({"actions": np.zeros((3, 0), np.float32)}, "at least one number per action, or int64"),
        ({"rewards": np.zeros(3)}, "float64; wanted float32"),
        ({"rewards": changed_field("rewards", 1, np.nan)}, "rewards at 1 is nan"),
        (
            {"terminations": np.array([True, False, True])},
            r"terminations\[0\] is True, but the episode has 3 steps",
        ),
        ({"frame_valid": np.array([False, True, True, True])}, "the first frame of an episode must be valid"),
        ({"frame_valid": np.array([True, True, True, False])}, "repeat the previous frame"),
        ({"variables": {"a/b": np.zeros(4, np.float32)}}, "without '/'"),
        ({"variables": {"a": np.zeros(3, np.float32)}}, r"variable 'a' has shape \(3,\)"),
        ({"index": -1}, r"index=-1"),
        ({"seed": 2**63}, "seed=9223372036854775808"),
        ({"seed": 1.5}, "wanted an integer"),
        ({"policy": ""}, "wanted its name"),
    ],
)
def test_episode_is_checked(changes: dict[str, Any], sentence: str) -> None:
    valid = make_episode(make_header(), 1)
    with pytest.raises(UserError, match=sentence):
        dataclasses.replace(valid, **changes)


def test_episode_length_return_crc_and_equality() -> None:
    header = make_header()
    episode = make_episode(header, 4, 3, rewards=np.array([1, 2, 0.5], np.float32))
    assert (episode.length, episode.return_) == (3, 3.5)
    order = [episode.frames, episode.frame_valid, episode.variables["ammo"], episode.variables["health"]]
    order += [episode.actions, episode.rewards, episode.terminations, episode.truncations]
    assert episode.crc() == zlib.crc32(b"".join(a.tobytes() for a in order))
    assert episode == dataclasses.replace(episode)
    assert episode != dataclasses.replace(episode, rewards=-episode.rewards)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"frames": np.zeros((4, 6, 6, 3), np.uint8)}, r"the header has \(4, 6, 3\)"),
        ({"actions": np.zeros((3, 1), np.int64)}, "wanted"),
        ({"actions": np.array([0, 1, 3])}, "outside"),
        ({"variables": {}}, r"variables are \[\]; the header has \['ammo', 'health'\]"),
        ({"policy": "nobody"}, "'nobody' is not one of the header"),
    ],
)
def test_episode_that_disagrees_with_the_header_is_not_written(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    header = make_header()
    with PartWriter(tmp_path / "p", header) as writer:
        before = (tmp_path / "p").read_bytes()
        with pytest.raises(UserError, match=sentence):
            writer.append(make_episode(header, 1, **changes))
        assert (tmp_path / "p").read_bytes() == before
