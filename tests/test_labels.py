"""Class labels and given splits: written, read, verified, merged; property-based over random datasets."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recordings import make_episode, make_file, make_header, write_part

from worldmodel.common.errors import UserError
from worldmodel.data import (
    SPLITS,
    ClipSampler,
    Dataset,
    Episode,
    Header,
    format_summary,
    merge,
    read_part,
    seal,
    split_of,
    summarize,
)
from worldmodel.data.preview import _label
from worldmodel.data.verification import verify

CLASSES = ("cat", "dog", "owl")


def labelled(header: Header, index: int, label: int | None, split: str | None, length: int = 3) -> Episode:
    return dataclasses.replace(make_episode(header, index, length), label=label, split=split)


def write_file(folder: Path, labels: list[int | None], name: str = "l.h5", **changes: Any) -> Path:
    header = make_header(**({"num_episodes": len(labels), "class_names": CLASSES} | changes))
    part = write_part(folder / "p", header, [labelled(header, i, label, None) for i, label in enumerate(labels)])
    return seal([part], folder / name, remove_parts=True)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.lists(
        st.tuples(st.none() | st.integers(0, len(CLASSES) - 1), st.sampled_from(SPLITS), st.integers(1, 4)),
        min_size=1,
        max_size=6,
    ),
    rule=st.sampled_from(["hash", "given"]),
    seed=st.integers(0, 2**63 - 1),
)
def test_labels_and_splits_are_read_as_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int | None, str, int]], rule: str, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("labels")
    header = make_header(num_episodes=len(rows), class_names=CLASSES, split_rule=rule, seed=seed)
    episodes = [
        labelled(header, i, label, split if rule == "given" else None, length)
        for i, (label, split, length) in enumerate(rows)
    ]
    part = write_part(folder / "p", header, episodes)
    assert list(read_part(part)) == episodes
    path = seal([part], folder / "a.h5")
    wanted = [split if rule == "given" else split_of(seed, i) for i, (_, split, _) in enumerate(rows)]
    with Dataset(path) as data:
        assert data.header == header
        assert list(data.episodes_iter()) == episodes
        assert data.labels.dtype == np.int64
        assert data.labels.tolist() == [-1 if label is None else label for label, _, _ in rows]
        assert data.class_names == CLASSES
        assert data.splits.tolist() == wanted
        for split in SPLITS:
            assert data.episodes_of(split).tolist() == [i for i, name in enumerate(wanted) if name == split]
    for file in (part, path):
        assert verify(file).splits == {split: wanted.count(split) for split in SPLITS}


def test_batches_have_the_labels_of_their_episodes(tmp_path: Path) -> None:
    with Dataset(write_file(tmp_path, [0, 2, None, 1])) as data:
        sampler = ClipSampler(data, 2, 8, split=None)
        batch = sampler.batch(0)
        assert batch.labels.dtype == np.int64
        assert batch.labels.tolist() == data.labels[batch.episode].tolist()
        assert batch.torch().labels.tolist() == batch.labels.tolist()


def test_files_without_labels_have_the_label_minus_one(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, num=3)
    with Dataset(path) as data:
        assert data.labels.tolist() == [-1, -1, -1]
        assert data.class_names == ()
        assert data.episode(0).label is None
        assert "labels " not in format_summary(summarize(data))


def test_summary_counts_labels(tmp_path: Path) -> None:
    with Dataset(write_file(tmp_path, [0, 2, None, 2])) as data:
        summary = summarize(data)
        assert summary["labels"] == {"cat": 1, "dog": 0, "owl": 2}
        assert "labels       cat 1, dog 0, owl 2; 1 without a label" in format_summary(summary)
        assert _label(data, 1).startswith("#1 ppo, owl: ")
        assert _label(data, 2).startswith("#2 random: ")


def test_labels_and_splits_that_disagree_with_the_header_are_refused(tmp_path: Path) -> None:
    header = make_header(class_names=CLASSES)
    with pytest.raises(UserError, match="label is 3; the header has 3 class names"):
        write_part(tmp_path / "a", header, [labelled(header, 0, 3, None)])
    with pytest.raises(UserError, match="split is 'test'; wanted None, because the split rule is 'hash'"):
        write_part(tmp_path / "b", header, [labelled(header, 0, 1, "test")])
    official = make_header(split_rule="given")
    with pytest.raises(UserError, match="split is None; wanted a split of its own, because the split rule is 'given'"):
        write_part(tmp_path / "c", official, [labelled(official, 0, None, None)])
    with pytest.raises(UserError, match=r"label=-1; wanted 0"):
        labelled(header, 0, -1, None)
    with pytest.raises(UserError, match="label is True; wanted an integer"):
        labelled(header, 0, True, None)
    with pytest.raises(UserError, match=r"unknown split 'trian'.*Did you mean 'train'"):
        labelled(header, 0, 0, "trian")
    with pytest.raises(UserError, match="each name once"):
        make_header(class_names=("a", "a"))
    with pytest.raises(UserError, match="a name for each class"):
        make_header(class_names=("a", ""))
    with pytest.raises(UserError, match="unknown split_rule 'random'"):
        make_header(split_rule="random")


@pytest.mark.parametrize(
    ("name", "value", "rule", "sentence"),
    [
        ("label", 3, "hash", r"episode 1 \(index 1\) has a label that is not in the header"),
        ("label", -2, "hash", r"episode 1 \(index 1\) has a negative label"),
        ("split", 3, "given", r"episode 1 \(index 1\) has an unknown split"),
    ],
)
def test_verify_checks_labels_and_given_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: int, rule: str, sentence: str
) -> None:
    from worldmodel.data import sealing

    real = sealing._table

    def wrong_table(*arguments: Any) -> Any:  # a writer with a bug, with correct CRCs
        table = real(*arguments)
        table[name][1] = value
        return table

    monkeypatch.setattr(sealing, "_table", wrong_table)
    header = make_header(num_episodes=2, class_names=CLASSES, split_rule=rule)
    split = "test" if rule == "given" else None
    part = write_part(tmp_path / "p", header, [labelled(header, i, 0, split) for i in range(2)])
    path = seal([part], tmp_path / "a.h5")
    with pytest.raises(UserError, match=sentence):
        verify(path)


def test_merging_keeps_labels_and_needs_equal_class_names_and_split_rules(tmp_path: Path) -> None:
    first = write_file(tmp_path, [0, None], "a.h5")
    second = write_file(tmp_path, [2, 1], "b.h5", seed=8)
    merged = merge([first, second], tmp_path / "m.h5")
    verify(merged)
    for data in (Dataset(merged), Dataset([first, second])):
        assert data.labels.tolist() == [0, -1, 2, 1]
        assert data.class_names == CLASSES
    for change in ({"class_names": ("dog", "cat", "owl")}, {"class_names": ()}):
        other = write_file(tmp_path, [None, None], "c.h5", seed=9, **change)
        with pytest.raises(UserError, match="cannot be read as one dataset: class_names is"):
            merge([first, other], tmp_path / "x.h5")
    header = make_header(num_episodes=1, class_names=CLASSES, split_rule="given", seed=9)
    part = write_part(tmp_path / "p", header, [labelled(header, 0, 0, "test")])
    official = seal([part], tmp_path / "d.h5")
    with pytest.raises(UserError, match="cannot be read as one dataset: split_rule is 'hash' in the first and 'given'"):
        merge([first, official], tmp_path / "x.h5")


def test_given_splits_that_are_missing_are_named(tmp_path: Path) -> None:
    header = make_header(num_episodes=1, split_rule="given")
    path = seal([write_part(tmp_path / "p", header, [labelled(header, 0, None, "test")])], tmp_path / "a.h5")
    with Dataset(path) as data:
        assert "there is no train and no validation episode" in str(data.missing_splits)
        assert "1 test (given)" in format_summary(summarize(data))
        with pytest.raises(UserError, match="the splits of this dataset are given"):
            ClipSampler(data, 2, 1)
