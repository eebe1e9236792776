"""Action labels and keys go from an environment's row to its recordings and to the worlds learned from them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from recordings import make_file, make_header
from untrained import make_world

from worldmodel import envs
from worldmodel.collect import record
from worldmodel.common.errors import UserError
from worldmodel.data import Dataset, merge, summarize
from worldmodel.envs.env_registry import action_keys
from worldmodel.train.world_facts import make_world_spec
from worldmodel.world.world_model import WorldModel

LABELS = ("stay", "up", "down", "left", "right")
KEYS = ("", "ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight")


def test_a_recording_and_its_world_have_the_keys_of_the_environment(tmp_path: Path) -> None:
    path = record("toy", "random", tmp_path / "toy.h5", episodes=1, max_steps=3, progress=False)
    with Dataset(path) as data:
        spec = make_world_spec(data)
        assert summarize(data)["action_keys"] == list(KEYS)
        for stored in (data.header, spec):
            assert (stored.action_labels, stored.action_keys) == (LABELS, KEYS)
    world = make_world()
    world.spec = dataclasses.replace(world.spec, action_labels=("a", "b", "c"), action_keys=("x", "", " "))
    world.save_pretrained(tmp_path / "world")
    assert WorldModel.from_pretrained(tmp_path / "world").spec.action_keys == ("x", "", " ")


@pytest.mark.parametrize("row", [row for row in envs.rows() if row.keys], ids=lambda row: row.name)
def test_keys_are_in_the_order_of_the_labels(row: envs.EnvRow) -> None:
    keys = action_keys(row.name, row.action_labels)
    assert dict(zip(row.action_labels, keys, strict=True)) == {**dict.fromkeys(row.action_labels, ""), **row.keys}
    assert action_keys(row.id, row.action_labels) == keys
    assert action_keys(row.id, ("0", "1")) == ()  # another action space


def test_environments_without_keys_have_none() -> None:
    assert action_keys("nobody/Unknown-v0", ("a",)) == ()
    assert action_keys("toy/continuous", ("x", "y")) == ()


def test_keys_need_labels_and_merging_keeps_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 action_keys for 0 action_labels; wanted the same number"):
        make_header(action_keys=("a", "b"))
    labels = ("stay", "left", "right")
    old, _ = make_file(tmp_path, action_labels=labels)  # as recorded before keys were stored
    new, _ = make_file(tmp_path, name="b.h5", seed=8, action_labels=labels, action_keys=("", "a", "d"))
    with Dataset(merge([old, new], tmp_path / "m.h5")) as data:
        assert data.header.action_keys == ("", "a", "d")
