"""Clips: every valid start once per epoch, deterministic in seed and step, divided among ranks."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import make_episode, make_file, make_header, write_part

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec
from worldmodel.data import Batch, ClipSampler, Dataset, Episode, merge, seal
from worldmodel.data.buffers import BufferPool
from worldmodel.data.shuffle import permute


def make_dataset(folder: Path, lengths: list[int], **changes: Any) -> tuple[Path, list[Episode]]:
    header = make_header(num_episodes=len(lengths), **changes)
    episodes = [make_episode(header, i, n) for i, n in enumerate(lengths)]
    return seal([write_part(folder / "p", header, episodes)], folder / "clips.h5", remove_parts=True), episodes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """30 episodes of 1 to 9 steps."""
    folder = tmp_path_factory.mktemp("clips")
    return Dataset(make_dataset(folder, [1 + i % 9 for i in range(30)])[0])


def valid_starts(data: Dataset, length: int, split: str | None) -> set[tuple[int, int]]:
    """Every (episode, start) with `length` frames, by brute force."""
    return {
        (e, s)
        for e in range(data.num_episodes)
        if split is None or data.splits[e] == split
        for s in range(100)
        if s + length <= data.lengths[e] + 1
    }


# ---------------------------------------------------------------- permutation


@settings(max_examples=40, deadline=None)
@given(num=st.integers(1, 3000), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 2**40))
def test_an_epoch_is_a_permutation(num: int, seed: int, epoch: int) -> None:
    order = permute(np.arange(num), num, seed, np.full(num, epoch))
    assert np.array_equal(np.sort(order), np.arange(num))


def test_orders_are_uniform_and_independent() -> None:
    num, epochs = 60, 3000
    orders = np.stack([permute(np.arange(num), num, 5, np.full(num, e)) for e in range(epochs)])
    for position in (0, 1, 59):  # the first, second and last element are uniform
        counts = np.bincount(orders[:, position], minlength=num)
        chi2 = ((counts - epochs / num) ** 2 / (epochs / num)).sum()
        assert chi2 < 59 + 6 * np.sqrt(2 * 59)
    steps = np.bincount((orders[:, 1] - orders[:, 0]) % num, minlength=num)[1:]  # neighbours are independent
    chi2 = ((steps - epochs / 59) ** 2 / (epochs / 59)).sum()
    assert chi2 < 58 + 6 * np.sqrt(2 * 58)
    again = np.bincount((orders[1:, 0] - orders[:-1, 0]) % num, minlength=num)  # and so are successive epochs
    assert ((again - epochs / num) ** 2 / (epochs / num)).sum() < 59 + 6 * np.sqrt(2 * 59)
    big = permute(np.arange(1000), 10**12, 5, np.zeros(1000, np.int64))  # any size is possible
    assert len(np.unique(big)) == 1000
    assert abs(big.mean() / 10**12 - 0.5) < 6 * np.sqrt(1 / 12 / 1000)
    assert abs(np.corrcoef(big[1:], big[:-1])[0, 1]) < 0.2


# ------------------------------------------------------------------- sampling


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(2, 9),
    batch_size=st.integers(1, 70),
    seed=st.integers(0, 1000),
    epoch=st.integers(0, 3),
    split=st.sampled_from(["train", None]),
)
def test_each_epoch_visits_every_valid_start_once(
    data: Dataset, length: int, batch_size: int, seed: int, epoch: int, split: str | None
) -> None:
    sampler = ClipSampler(data, length, batch_size, split=split, seed=seed)
    valid = valid_starts(data, length, split)
    assert sampler.num_clips == len(valid)
    first, last = epoch * len(valid), (epoch + 1) * len(valid)  # samples of the epoch
    steps = range(first // batch_size, -(-last // batch_size))
    visited = [pair for step in steps for pair in zip(*(a.tolist() for a in sampler.locate(step)), strict=True)]
    skip = first - steps.start * batch_size
    assert sorted(visited[skip : skip + len(valid)]) == sorted(valid)


@settings(max_examples=30, deadline=None)
@given(
    share=st.integers(1, 6),
    world_size=st.integers(1, 5),
    seed=st.integers(0, 1000),
    step=st.integers(0, 10**12),
)
def test_rank_slices_are_the_global_batch(data: Dataset, share: int, world_size: int, seed: int, step: int) -> None:
    whole = ClipSampler(data, 3, share * world_size, seed=seed).batch(step)
    ranks = [
        ClipSampler(data, 3, share * world_size, seed=seed, rank=r, world_size=world_size).batch(step)
        for r in range(world_size)
    ]
    for name in ("frames", "actions", "rewards", "episode", "start"):
        joined = np.concatenate([getattr(rank, name) for rank in ranks])
        assert np.array_equal(joined, getattr(whole, name))


def equal(a: Batch[np.ndarray], b: Batch[np.ndarray]) -> bool:
    return all(
        np.array_equal(getattr(a, n), getattr(b, n)) for n in a.__dataclass_fields__ if n != "variables"
    ) and all(np.array_equal(a.variables[n], b.variables[n]) for n in a.variables)


def test_batch_depends_on_seed_and_step_only(data: Dataset, tmp_path: Path) -> None:
    with Dataset(data.paths[0], cache="ram") as loaded:
        sampler, other = ClipSampler(data, 4, 8, seed=3), ClipSampler(loaded, 4, 8, seed=3)
        for step in (5, 0, 5, 10**9):
            assert equal(sampler.batch(step), other.batch(step))
    assert not equal(sampler.batch(0), ClipSampler(data, 4, 8, seed=4).batch(0))
    assert equal(pickle.loads(pickle.dumps(sampler)).batch(7), sampler.batch(7))
    resumed = data.clips(length=4, batch_size=8, seed=3, start_step=2)
    for step, batch in zip(range(2, 30), resumed, strict=False):
        assert equal(batch, sampler.batch(step))


@pytest.mark.parametrize(
    "space",
    [spaces.Discrete(3), spaces.MultiDiscrete((3, 2)), spaces.MultiBinary(4), spaces.Box((-1.0,), (1.0,))],
)
def test_batches_are_slices_of_episodes(tmp_path: Path, space: spaces.Space) -> None:
    path, episodes = make_dataset(tmp_path, [3, 5, 4, 9, 2, 7, 5, 5, 3, 3, 4, 6], action_space=space)
    batch = next(Dataset(path).clips(length=4, batch_size=40, split=None))
    assert batch.frames.shape == (40, 4, 4, 6, 3)
    assert batch.actions.shape == (40, 3, *space.shape)
    assert batch.actions.dtype == space.dtype
    for i in range(40):
        episode, s = episodes[batch.episode[i]], int(batch.start[i])
        assert np.array_equal(batch.frames[i], episode.frames[s : s + 4])
        assert np.array_equal(batch.frame_valid[i], episode.frame_valid[s : s + 4])
        for name in ("actions", "rewards", "terminations", "truncations"):
            assert np.array_equal(getattr(batch, name)[i], getattr(episode, name)[s : s + 3])
        for name in ("health", "ammo"):
            assert np.array_equal(batch.variables[name][i], episode.variables[name][s : s + 4])


def test_clip_as_long_as_its_episode(tmp_path: Path) -> None:
    path, episodes = make_dataset(tmp_path, [5] * 10)
    data = Dataset(path)
    for split, count in (("train", 8), ("validation", 1), ("test", 1)):
        sampler = ClipSampler(data, 6, count, split=split)
        assert sampler.num_clips == count
        batch = sampler.batch(0)
        assert sorted(batch.episode) == np.flatnonzero(data.splits == split).tolist()
        assert np.array_equal(batch.frames[0], episodes[batch.episode[0]].frames)
        assert np.array_equal(batch.terminations[0], episodes[batch.episode[0]].terminations)


def test_cropped_dataset_equals_a_recording_with_the_crop(data: Dataset) -> None:
    height, width, _ = data.header.pixels.frame_shape
    crop = (1, height - 2, 2, width)
    cropped = Dataset(data.paths[0], crop=crop)
    assert cropped.header.pixels.frame_shape == (height - 3, width - 2, 3)
    assert cropped.fingerprint != data.fingerprint
    for number in (0, data.num_episodes - 1):
        whole = data.episode(number).frames
        np.testing.assert_array_equal(cropped.episode(number).frames, whole[:, 1:-2, 2:])
    settings = {"length": 2, "batch_size": 3, "seed": 4}
    a, b = next(data.clips(**settings)), next(cropped.clips(**settings))
    np.testing.assert_array_equal(b.frames, a.frames[:, :, 1:-2, 2:])
    again = pickle.loads(pickle.dumps(cropped))
    assert again.header == cropped.header
    opened = Dataset.open_cropped(data.paths[0], cropped.header.pixels)
    assert opened.header == cropped.header
    np.testing.assert_array_equal(opened.frames(1), cropped.frames(1))
    assert Dataset.open_cropped(data.paths[0], data.header.pixels).fingerprint == data.fingerprint
    other = PixelSpec((height + 1, width), (0, 1, 0, 1))
    assert Dataset.open_cropped(data.paths[0], other).header == data.header  # not a part of the recorded frames
    twice = cropped.header.pixels.cropped((0, 1, 1, 3))
    assert twice.crop == (1, 2, 3, 5)
    with pytest.raises(UserError, match="inside"):
        Dataset(data.paths[0], crop=(0, height + 1, 0, width))


def test_no_episode_is_in_two_splits(data: Dataset) -> None:
    episodes = []
    for split in ("train", "validation", "test"):
        sampler = ClipSampler(data, 2, 16, split=split)
        steps = range(-(-sampler.num_clips // 16))
        episodes.append({int(e) for step in steps for e in sampler.locate(step)[0]})
    assert not any(a & b for a, b in itertools.combinations(episodes, 2))
    assert sum(map(len, episodes)) == data.num_episodes


def test_several_files_read_as_one(tmp_path: Path) -> None:
    first, a = make_file(tmp_path, name="a.h5")
    second, b = make_file(tmp_path, name="b.h5", seed=8)
    merged = merge([first, second], tmp_path / "m.h5")
    for data in (Dataset([first, second]), Dataset(merged), Dataset(merged, cache="ram")):
        sampler = ClipSampler(data, 3, 64, split=None)
        batch = sampler.batch(0)
        assert set(batch.episode // 12) == {0, 1}
        for i, (e, s) in enumerate(zip(batch.episode, batch.start, strict=True)):
            assert np.array_equal(batch.frames[i], (a + b)[e].frames[s : s + 3])
            assert np.array_equal(batch.rewards[i], (a + b)[e].rewards[s : s + 2])
            assert np.array_equal(batch.variables["ammo"][i], (a + b)[e].variables["ammo"][s : s + 3])


def test_wrong_arguments_are_refused_in_one_sentence(data: Dataset, tmp_path: Path) -> None:
    name = r"'.*clips.h5'"
    for arguments, sentence in [
        (
            {"length": 16, "split": None},
            rf"clip_length=16 needs 16 frames, but the longest episode in {name} has 10. "
            r"Collect longer episodes or shorten the clips \(of a prior: --train-prior\.clip-length 10\)\.",
        ),
        ({"length": 1}, "at least 2 frames"),
        ({"batch_size": 0}, "at least 1"),
        ({"batch_size": 7, "world_size": 2}, "cannot be divided by 2 processes.* Use 6 or 8"),
        ({"batch_size": 2, "world_size": 4}, "Use 4"),
        ({"rank": 2, "world_size": 2}, "0 <= rank < world_size"),
        ({"seed": -1}, r"wanted 0 .. 2\*\*63 - 1"),
        ({"split": "tests"}, r"unknown split 'tests'. Did you mean 'test'\?"),
    ]:
        with pytest.raises(UserError, match=sentence):
            ClipSampler(data, **({"length": 4, "batch_size": 8} | arguments))
        with pytest.raises(UserError, match=sentence):  # at the call, not at the first batch
            data.clips(**({"length": 4, "batch_size": 8} | arguments))
    sampler = ClipSampler(data, 4, 8)
    with pytest.raises(UserError, match="step=-1"):
        sampler.batch(-1)
    with pytest.raises(UserError, match="from frame 9 is not inside episode 3"):
        sampler.gather(np.array([3]), np.array([9]))
    small = Dataset(make_dataset(tmp_path, [5])[0])
    empty = "test" if small.splits[0] != "test" else "train"
    with pytest.raises(UserError, match=f"the {empty} split of .* is empty: there is no .*Record 10"):
        ClipSampler(small, 4, 8, split=empty)


# -------------------------------------------------------------------- buffers


def test_returned_arrays_never_change(data: Dataset) -> None:
    sampler = ClipSampler(data, 4, 8)
    batches = [sampler.batch(step) for step in range(30)]
    copies = [batch.frames.copy() for batch in batches]
    for step in range(30, 60):
        sampler.batch(step)
    assert all(np.array_equal(batch.frames, copy) for batch, copy in zip(batches, copies, strict=True))


@pytest.mark.parametrize("hold", ["array", "view", "view of view", "memoryview", "tensor", "ctypes"])
def test_memory_is_reused_only_after_the_last_reference(hold: str) -> None:
    pool = BufferPool()
    array = pool.take((4, 8))
    address = array.ctypes.data
    if hold == "view":
        array = array[1:]
    elif hold == "view of view":
        array = array[1:].reshape(-1)[::2][None]
    elif hold == "memoryview":
        array = memoryview(array)[1:]
    elif hold == "tensor":
        array = pytest.importorskip("torch").from_numpy(array)[1:].reshape(-1)
    elif hold == "ctypes":
        array = array.ctypes.data_as(__import__("ctypes").POINTER(__import__("ctypes").c_uint8))
    new_arrays = [pool.take((4, 8)) for _ in range(4)]
    assert address not in {other.ctypes.data for other in new_arrays}
    del array
    if hold == "ctypes":  # numpy keeps such pointers in a reference cycle
        __import__("gc").collect()
    assert pool.take((8, 4)).ctypes.data == address


def test_batches_become_tensors(data: Dataset) -> None:
    torch = pytest.importorskip("torch")
    batch = ClipSampler(data, 4, 8).batch(0)
    tensors = batch.torch()
    assert tensors.frames.dtype == torch.uint8
    assert tensors.frames.data_ptr() == batch.frames.ctypes.data  # shared, not copied
    assert tensors.variables["ammo"].shape == (8, 4)
    assert tensors.torch("cpu").actions.tolist() == batch.actions.tolist()
