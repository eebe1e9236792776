"""The dataset's files: written and read alike, safe from crashes, and no byte unguarded."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pickle
import re
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worldmodel.common import files as data_files
from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec
from worldmodel.data import (
    Dataset,
    Episode,
    Header,
    PartWriter,
    PolicyRecord,
    atomic_path,
    check_free_space,
    merge,
    read_part,
    read_part_header,
    seal,
)
from worldmodel.data import parts as data_parts
from worldmodel.data.splits import SPLITS, lacking_splits, split_numbers
from worldmodel.data.verification import verify

DOCS = Path(__file__).parent.parent / "docs" / "dataset.md"
SPACES = [
    spaces.Discrete(3),
    spaces.MultiDiscrete((3, 2, 5)),
    spaces.MultiBinary(4),
    spaces.Box((-1.0, None), (1.0, None)),
]


def make_header(**changes: Any) -> Header:
    fields: dict[str, Any] = {
        "env": "Test-v0",
        "pixels": PixelSpec((4, 6)),
        "action_space": spaces.Discrete(3),
        "seed": 7,
        "num_episodes": 12,
        "policies": (PolicyRecord("random"), PolicyRecord("ppo", "abc123", {"lr": 0.1}, 0.5)),
        "variables": ("health", "ammo"),
        "max_steps": 50,
    }
    return Header(**(fields | changes))


def make_episode(header: Header, index: int, length: int = 3, **changes: Any) -> Episode:
    rng = np.random.default_rng([index, length])
    actions = np.stack([header.action_space.sample(rng) for _ in range(length)])
    frames = rng.integers(0, 256, (length + 1, *header.pixels.frame_shape), np.uint8)
    variables = {name: rng.random(length + 1, np.float32) for name in header.variables}
    valid = np.ones(length + 1, bool)
    if index % 3 == 0:  # an end without a picture
        valid[-1] = False
        frames[-1] = frames[-2]
        for values in variables.values():
            values[-1] = values[-2]
    last = np.arange(length) == length - 1
    fields: dict[str, Any] = {
        "frames": frames,
        "frame_valid": valid,
        "actions": actions,
        "rewards": rng.standard_normal(length).astype(np.float32),
        "terminations": last & (index % 2 == 0),
        "truncations": last & (index % 2 == 1),
        "variables": variables,
        "index": index,
        "seed": 1000 + index,
        "policy": header.policy_names[index % len(header.policies)],
    }
    return Episode(**(fields | changes))


def write_part(path: Path, header: Header, episodes: list[Episode]) -> Path:
    with PartWriter(path, header) as writer:
        for episode in episodes:
            writer.append(episode)
    return path


def make_file(folder: Path, num: int = 12, name: str = "a.h5", **changes: Any) -> tuple[Path, list[Episode]]:
    header = make_header(**({"num_episodes": num} | changes))
    episodes = [make_episode(header, i, 1 + i % 5) for i in range(num)]
    part = write_part(folder / f"{name}.part", header, episodes)
    return seal([part], folder / name, remove_parts=True), episodes


def names_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# ---------------------------------------------------------------- round trips


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    space=st.sampled_from(SPACES),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    variables=st.sampled_from([(), ("health",), ("b", "a", "ü")]),
    workers=st.integers(1, 3),
    order=st.randoms(use_true_random=False),
)
def test_write_then_read_is_identical(
    tmp_path_factory: pytest.TempPathFactory,
    space: spaces.Space,
    size: tuple[int, int],
    lengths: list[int],
    variables: tuple[str, ...],
    workers: int,
    order: Any,
) -> None:
    folder = tmp_path_factory.mktemp("round")
    header = make_header(action_space=space, pixels=PixelSpec(size), variables=variables, num_episodes=len(lengths))
    episodes = [make_episode(header, i, n) for i, n in enumerate(lengths)]
    single = seal([write_part(folder / "one", header, episodes)], folder / "one.h5", indices=header.indices)

    shuffled = episodes[:]
    order.shuffle(shuffled)
    writers = [PartWriter(folder / f"p{w}", header) for w in range(workers)]
    for i, episode in enumerate(shuffled):
        writers[i % workers].append(episode)
    for writer in writers:
        writer.close()
    parts = [writer.path for writer in writers]
    assert [e for p in parts for e in read_part(p)] == [e for w in range(workers) for e in shuffled[w::workers]]
    sealed = seal(parts, folder / "many.h5", indices=header.indices, remove_parts=True)

    assert sealed.read_bytes() == single.read_bytes()  # the whole file, whatever the parts
    assert not any(p.exists() for p in parts)
    for cache in ("memmap", "ram"):
        with Dataset(sealed, cache=cache) as data:
            assert data.header == header
            assert list(data.episodes_iter()) == episodes
            assert data.num_frames == sum(lengths) + len(lengths)
            assert data.num_steps == sum(lengths)
            assert data.policies.tolist() == [e.policy for e in episodes]
            assert data.seeds.tolist() == [e.seed for e in episodes]
            assert data.crcs.tolist() == [e.crc() for e in episodes]
    assert verify(sealed).num_episodes == len(lengths)


def test_header_round_trip_and_strictness() -> None:
    for space in SPACES:
        header = make_header(action_space=space, env_kwargs={"a": (1, 2)}, action_labels=[["x"], ["y", "z"]])
        assert Header.from_json(json.loads(header.text())) == header
        assert header.env_kwargs == {"a": [1, 2]}
    spec = make_header().to_json()
    with pytest.raises(UserError, match="version 2; this code reads version 1"):
        Header.from_json(spec | {"version": 2})
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


def test_shards_share_the_indices() -> None:
    shards = [make_header(num_episodes=11, shard=(i, 3)).indices for i in range(3)]
    assert sorted(e for shard in shards for e in shard) == list(range(11))


# ------------------------------------------------------------------- episodes


def changed(name: str, at: Any, value: Any) -> Any:
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
        ({"rewards": np.zeros(3)}, "float64; wanted float32"),
        ({"rewards": changed("rewards", 1, np.nan)}, "rewards at 1 is nan"),
        (
            {"terminations": np.array([True, False, True])},
            r"terminations\[0\] is True, but the episode goes on",
        ),
        ({"frame_valid": np.array([False, True, True, True])}, "begins with a real frame"),
        ({"frame_valid": np.array([True, True, True, False])}, "repeat the one before"),
        ({"variables": {"a/b": np.zeros(4, np.float32)}}, "without '/'"),
        ({"variables": {"a": np.zeros(3, np.float32)}}, r"variable 'a' has shape \(3,\)"),
        ({"index": -1}, r"index=-1"),
        ({"seed": 2**63}, "seed=9223372036854775808"),
        ({"seed": 1.5}, "whole number"),
        ({"policy": ""}, "wanted its name"),
    ],
)
def test_episode_is_checked(changes: dict[str, Any], sentence: str) -> None:
    right = make_episode(make_header(), 1)
    with pytest.raises(UserError, match=sentence):
        dataclasses.replace(right, **changes)


def test_episode_facts() -> None:
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
        ({"frames": np.zeros((4, 6, 6, 3), np.uint8)}, r"the header says \(4, 6, 3\)"),
        ({"actions": np.zeros((3, 1), np.int64)}, "wants"),
        ({"actions": np.array([0, 1, 3])}, "outside"),
        ({"variables": {}}, r"variables are \[\]; the header says \['ammo', 'health'\]"),
        ({"policy": "nobody"}, "'nobody' is not among the header's"),
    ],
)
def test_episode_must_agree_with_its_header(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    header = make_header()
    with PartWriter(tmp_path / "p", header) as writer:
        before = (tmp_path / "p").read_bytes()
        with pytest.raises(UserError, match=sentence):
            writer.append(make_episode(header, 1, **changes))
        assert (tmp_path / "p").read_bytes() == before


# --------------------------------------------------------------------- splits


@given(seed=st.integers(0, 2**63 - 1), block=st.integers(0, 2**50))
def test_every_block_of_ten_is_8_1_1(seed: int, block: int) -> None:
    numbers = split_numbers(seed, np.arange(10, dtype=np.int64) + block * 10)
    assert np.bincount(numbers, minlength=3).tolist() == [8, 1, 1]


def test_splits_are_spread_and_the_documented_rule_is_ours() -> None:
    numbers = split_numbers(3, np.arange(20_000))
    for split in (1, 2):
        places = np.bincount(np.flatnonzero(numbers == split) % 10, minlength=10)
        assert places.min() > 140  # 200 expected, six deviations
    code = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S)[1]
    told: dict[str, Any] = {}
    exec(code, told)
    for seed in (0, 3, 2**63 - 1):
        assert [told["split"](seed, i) for i in range(200)] == split_numbers(seed, np.arange(200)).tolist()


def test_a_small_file_says_what_it_lacks() -> None:
    assert lacking_splits(split_numbers(0, range(10))) is None
    assert "there is no validation and no test episode (3 train" in str(lacking_splits(np.zeros(3)))


# ----------------------------------------------------------------- part files


def test_truncation_at_any_byte_leaves_a_readable_prefix(tmp_path: Path) -> None:
    header = make_header(pixels=PixelSpec((1, 2)), variables=("a",), policies=(PolicyRecord("r"),))
    episodes = [make_episode(header, i, 1 + i % 2) for i in range(3)]
    ends = []
    with PartWriter(tmp_path / "whole", header) as writer:
        ends.append((tmp_path / "whole").stat().st_size)
        for episode in episodes:
            writer.append(episode)
            ends.append((tmp_path / "whole").stat().st_size)
    data = (tmp_path / "whole").read_bytes()
    cut = tmp_path / "cut"
    for size in range(len(data)):
        cut.write_bytes(data[:size])
        whole = sum(end <= size for end in ends) - 1
        if whole < 0:
            with pytest.raises(UserError, match="ends inside its header"):
                read_part_header(cut)
        else:
            assert list(read_part(cut)) == episodes[:whole]
            if size not in ends:
                with pytest.raises(UserError, match=f"record {whole} of .* is torn"):
                    verify(cut)
        if size % 29 and size not in ends:
            continue
        with PartWriter(cut, header) as writer:  # goes on where it was cut
            assert writer.indices == set(range(max(whole, 0)))
            for episode in episodes[max(whole, 0) :]:
                writer.append(episode)
        assert cut.read_bytes() == data


def test_every_flipped_byte_of_a_part_is_found(tmp_path: Path) -> None:
    header = make_header(pixels=PixelSpec((1, 2)), variables=(), policies=(PolicyRecord("r"),))
    episodes = [make_episode(header, i, 1) for i in range(3)]
    path = write_part(tmp_path / "p", header, episodes)
    data = bytearray(path.read_bytes())
    verify(path)
    for at in range(len(data)):
        data[at] ^= 0x10
        path.write_bytes(data)
        data[at] ^= 0x10
        with pytest.raises(UserError):
            verify(path)


def test_damage_in_the_middle_is_named_and_at_the_end_is_cut(tmp_path: Path) -> None:
    header = make_header()
    path = write_part(tmp_path / "p", header, [make_episode(header, i) for i in (5, 6, 7)])
    data = path.read_bytes()
    starts = [m.start() for m in re.finditer(b"\x89WMEPIS", data)]
    for offset in (1, 12, 40, 300):  # mark, length, meta, arrays
        damaged = bytearray(data)
        damaged[starts[1] + offset] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"record 1 .*'.*p'"):
            list(read_part(path))
        with pytest.raises(UserError, match="record 1 "):
            PartWriter(path, header)
        damaged = bytearray(data)
        damaged[starts[2] + offset] ^= 1
        path.write_bytes(damaged)
        with PartWriter(path, header) as writer:
            assert writer.indices == {5, 6}
        assert path.read_bytes() == data[: starts[2]]  # cut off, not only passed over


def test_a_part_of_another_run_is_refused(tmp_path: Path) -> None:
    header = make_header()
    with PartWriter(tmp_path / "p", header) as writer:
        with pytest.raises(UserError, match="being written by another process"):
            PartWriter(tmp_path / "p", header)
        writer.append(make_episode(header, 1))
        with pytest.raises(UserError, match="already holds episode 1"):
            writer.append(make_episode(header, 1))
    with pytest.raises(UserError, match="belongs to another run: seed is 7 in the one and 8"):
        PartWriter(tmp_path / "p", make_header(seed=8))
    (tmp_path / "q").write_bytes(b"hello, this is not a part")
    with pytest.raises(UserError, match="is not a part file"):
        PartWriter(tmp_path / "q", header)
    with pytest.raises(UserError, match="cannot open"):
        list(read_part(tmp_path / "none"))


@pytest.mark.parametrize("fail_after", [0, 1, 4])
def test_a_full_disk_leaves_the_part_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_after: int
) -> None:
    header = make_header()
    writer = PartWriter(tmp_path / "p", header)
    writer.append(make_episode(header, 0))
    before = (tmp_path / "p").read_bytes()
    calls = iter(range(100))
    real = os.write

    def write(handle: int, piece: Any) -> int:
        if next(calls) >= fail_after:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, piece[: max(len(piece) // 2, 1)])

    monkeypatch.setattr(data_parts.os, "write", write)
    with pytest.raises(UserError, match=r"episode 1 could not be written .* No space left"):
        writer.append(make_episode(header, 1))
    assert (tmp_path / "p").read_bytes() == before
    monkeypatch.undo()
    writer.append(make_episode(header, 1))
    writer.close()
    assert [e.index for e in read_part(tmp_path / "p")] == [0, 1]


# -------------------------------------------------------------------- sealing


def test_seal_names_what_is_wrong(tmp_path: Path) -> None:
    header = make_header()
    part = write_part(tmp_path / "p", header, [make_episode(header, i) for i in (0, 2)])
    same = write_part(tmp_path / "same", header, [make_episode(header, 2), make_episode(header, 1)])
    other = write_part(tmp_path / "other", header, [make_episode(header, 2, 4)])
    alien = write_part(tmp_path / "alien", make_header(seed=8), [make_episode(header, 3)])
    out = tmp_path / "out.h5"
    for arguments, sentence in [
        ({"parts": [part], "indices": range(4)}, r"2 of 4 episodes are missing \(1, 3\)"),
        ({"parts": [part], "indices": [0]}, "shall not have: 2"),
        ({"parts": [part, other]}, "episode 2 is told in two ways"),
        ({"parts": [part, alien]}, "different runs: seed is 7"),
        ({"parts": [alien], "header": header}, "another run than the given header: seed"),
        ({"parts": []}, "no part file was given"),
        ({"parts": [part, out]}, "is one of the parts"),
    ]:
        with pytest.raises(UserError, match=sentence):
            seal(arguments.pop("parts"), out, **arguments)
    assert names_in(tmp_path) == ["alien", "other", "p", "same"]
    seal([part, same], out, indices=range(3))
    assert Dataset(out).indices.tolist() == [0, 1, 2]
    assert verify(out).missing == tuple(range(3, 12))


def test_shards_are_sealed_under_one_header(tmp_path: Path) -> None:
    parts = []
    for i in range(2):
        header = make_header(shard=(i, 2), num_episodes=4)
        parts.append(write_part(tmp_path / f"p{i}", header, [make_episode(header, e) for e in header.indices]))
    with pytest.raises(UserError, match="shard is"):
        seal(parts, tmp_path / "a.h5")
    whole = make_header(num_episodes=4)
    assert verify(seal(parts, tmp_path / "a.h5", header=whole, indices=whole.indices)).missing == ()


def test_seal_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = make_header()
    part = write_part(tmp_path / "p", header, [make_episode(header, i) for i in range(3)])
    out = tmp_path / "out.h5"
    out.write_bytes(b"older")

    usage = os.statvfs(tmp_path)
    monkeypatch.setattr(data_files.shutil, "disk_usage", lambda _: type("U", (), {"free": 10_000})())
    with pytest.raises(UserError, match=r"sealing '.*out.h5' needs .* kB, but '.*' has 10.0 kB free"):
        seal([part], out)
    monkeypatch.undo()
    assert usage

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for place in ("worldmodel.data.sealing.seal_first_block", "h5py.Dataset.__setitem__"):
        monkeypatch.setattr(place, full)
        with pytest.raises(UserError, match=r"could not be written.*The parts are as they were"):
            seal([part], out, remove_parts=True)
        monkeypatch.undo()
    monkeypatch.setattr(data_files.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        seal([part], out, remove_parts=True)
    monkeypatch.undo()
    assert out.read_bytes() == b"older"

    damaged = bytearray(part.read_bytes())
    damaged[-60] ^= 1  # the last record of a part
    part.write_bytes(damaged)
    with pytest.raises(UserError, match="record 2"):
        seal([part], out, remove_parts=True)
    assert names_in(tmp_path) == ["out.h5", "p"]
    assert out.read_bytes() == b"older"


def test_free_space_and_atomic_path(tmp_path: Path) -> None:
    check_free_space(tmp_path / "not" / "yet", 1, "this")
    with pytest.raises(UserError, match=r"this needs 1000000.0 TB"):
        check_free_space(tmp_path / "not" / "yet", 10**18, "this")
    with atomic_path(tmp_path / "new" / "a.txt") as temporary:
        temporary.write_text("a")
        assert not (tmp_path / "new" / "a.txt").exists()

    def interrupted() -> None:
        with atomic_path(tmp_path / "new" / "a.txt") as temporary:
            temporary.write_text("b")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "new" / "a.txt").read_text() == "a"
    assert names_in(tmp_path / "new") == ["a.txt"]
    with pytest.raises(UserError, match="is a folder"), atomic_path(tmp_path):
        pass
    with pytest.raises(UserError, match="cannot write"), atomic_path(tmp_path / "new" / "a.txt" / "b"):
        pass


# -------------------------------------------------------------------- reading


def test_ten_lines_of_h5py_read_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, episodes = make_file(tmp_path, name="mine.h5")
    code = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S)[0]
    assert "worldmodel" not in code
    assert len(code.splitlines()) <= 11
    monkeypatch.chdir(tmp_path)
    got: dict[str, Any] = {}
    exec(code, got)
    assert got["frames"].tobytes() == episodes[0].frames.tobytes()
    assert got["actions"].tolist() == episodes[0].actions.tolist()
    assert got["rewards"].tolist() == episodes[0].rewards.tolist()
    assert got["policy"] == episodes[0].policy
    with h5py.File(path) as file:
        assert file.attrs["format"] == b"worldmodel dataset"
        assert file["frames"].chunks is None


@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.slow), 37])
def test_every_flipped_byte_of_a_sealed_file_is_found(tmp_path: Path, stride: int) -> None:
    header = make_header(pixels=PixelSpec((1, 2)), num_episodes=2)
    part = write_part(tmp_path / "p", header, [make_episode(header, i, 2) for i in range(2)])
    path = seal([part], tmp_path / "a.h5")
    data = path.read_bytes()
    verify(path)
    for at in range(0, len(data), stride):
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(bytes([data[at] ^ 0x04]))
        with pytest.raises(UserError):
            verify(path)
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(data[at : at + 1])
    verify(path)


def test_verify_names_the_first_bad_episode(tmp_path: Path) -> None:
    path, episodes = make_file(tmp_path)
    for number in (9, 4):
        place = path.read_bytes().find(episodes[number].frames.tobytes())
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(bytes([episodes[number].frames.flat[0] ^ 1]))
        crc = f"{episodes[number].crc():08x}"
        with pytest.raises(UserError, match=rf"episode {number} \(index {number}\): CRC .* is .*, stored {crc}"):
            verify(path)
    assert Dataset(path).num_episodes == 12  # opening reads the heads alone
    with h5py.File(path) as file:
        place = file["episodes/length"].id.get_offset()
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="the CRC of its table of episodes is wrong"):
        Dataset(path)


@pytest.mark.parametrize(
    ("name", "number", "value", "sentence"),
    [
        ("split", 3, 9, r"episode 3 \(index 3\) is in the wrong split \(wanted"),
        ("step_offset", 2, 0, "wrong step_offset"),
        ("index", 1, 0, "does not come after"),
        ("policy", 1, 2, "policy number"),
        ("crc", 1, 0, r"episode 1 \(index 1\): CRC of its arrays"),
    ],
)
def test_verify_reads_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int, value: int, sentence: str
) -> None:
    from worldmodel.data import sealing as hdf5

    real = hdf5._table

    def wrong(*arguments: Any) -> Any:  # a writer with an error, whose CRCs are right
        table = real(*arguments)
        table[name][number] = value
        return table

    monkeypatch.setattr(hdf5, "_table", wrong)
    header = make_header(num_episodes=5)
    part = write_part(tmp_path / "p", header, [make_episode(header, i) for i in range(5)])
    path = seal([part], tmp_path / "a.h5")
    with pytest.raises(UserError, match=sentence):
        verify(path)


def test_foreign_and_broken_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path)
    data = path.read_bytes()
    header = make_header()
    part = write_part(tmp_path / "p.part", header, [make_episode(header, 0)])
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1
    cases = {
        "empty": (b"", "is empty"),
        "text": (b"hello" * 300, "no worldmodel dataset"),
        "short": (data[:60], "first block is damaged or cut off"),
        "cut": (data[:-1], "it was written with"),
        "longer": (data + b"\0", "it was written with"),
        "newer": (data.replace(b"dataset 1\n", b"dataset 2\n", 1), "version 2; this code reads version 1"),
    }
    for name, (content, sentence) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=sentence):
            Dataset(tmp_path / name)
    for place, sentence in [
        (tmp_path / "none.h5", "there is no file"),
        (tmp_path / "foreign.h5", "an HDF5 file, but no worldmodel dataset"),
        (part, "is a part file.*worldmodel data seal"),
        (tmp_path, "cannot open"),
    ]:
        with pytest.raises(UserError, match=sentence):
            Dataset(place)
    with pytest.raises(UserError, match=r"unknown cache 'disk'.*memmap, ram"):
        Dataset(path, cache="disk")


def test_dataset_is_picklable_closable_and_indexable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, episodes = make_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    data = Dataset("a.h5")
    text = pickle.dumps(data)
    assert len(text) < 2000
    monkeypatch.chdir("/")
    again = pickle.loads(text)
    assert again.fingerprint == data.fingerprint
    assert again.episode(-1) == episodes[-1]
    assert again.frames(2, 1, 3).tobytes() == episodes[2].frames[1:3].tobytes()
    with pytest.raises(UserError, match="episode 12 does not exist"):
        again.episode(12)
    with pytest.raises(UserError, match="Did you mean 'validation'"):
        again.episodes_of("valid")
    assert set(again.splits) == set(SPLITS)
    with again:
        pass
    with pytest.raises(UserError, match="is closed"):
        again.episode(0)
    make_file(tmp_path, num=11)  # the file is replaced
    with pytest.raises(UserError, match="has changed since"):
        pickle.loads(text)
    assert path.exists()
    assert data.episode(11) == episodes[11]  # who had it open keeps the old one


# -------------------------------------------------------------------- merging


def test_merge_is_one_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    ppo2 = (PolicyRecord("random"), PolicyRecord("ppo", "def456"))
    first, a = make_file(tmp_path / "sub", name="a.h5")
    second, b = make_file(tmp_path, name="b.h5", num=10, seed=8, policies=ppo2)
    merged = merge([first, second], tmp_path / "all.h5")
    again = merge([merged], tmp_path / "again.h5")  # merged files are taken apart
    report = verify(merged)
    assert (report.kind, report.num_episodes) == ("merged", 22)
    renamed = {"random": "random"}
    for path in (merged, again, [first, second]):
        data = Dataset(path)
        got = list(data.episodes_iter())
        for episode, wanted in zip(got, a + b, strict=True):
            assert dataclasses.replace(episode, policy=wanted.policy) == wanted
        names = ["ppo@abc123"] * 12 + ["ppo@def456"] * 10
        assert data.policies.tolist() == [renamed.get(e.policy, n) for e, n in zip(a + b, names, strict=True)]
        assert data.header.policy_names == ("random", "ppo@abc123", "ppo@def456")
        assert data.fingerprint == Dataset(merged).fingerprint
        assert [h.seed for h in data.headers] == [7, 8]
        assert pickle.loads(pickle.dumps(data)).num_steps == data.num_steps
    monkeypatch.chdir("/")  # names are relative to the file, not to where we stand
    with h5py.File(merged) as file:
        assert file["frames"].is_virtual
        assert file["frames"][:].tobytes() == b"".join(e.frames.tobytes() for e in a + b)
        offsets = file["episodes/step_offset"][:]
        assert file["rewards"][offsets[12]] == b[0].rewards[0]

    for at in range(0, merged.stat().st_size, 331):
        data_bytes = bytearray(merged.read_bytes())
        data_bytes[at] ^= 1
        (tmp_path / "flip.h5").write_bytes(data_bytes)
        with pytest.raises(UserError):
            verify(tmp_path / "flip.h5")


def test_merge_refuses(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path)
    other, _ = make_file(tmp_path, name="b.h5", seed=8)
    merged = merge([path, other], tmp_path / "m.h5")
    for field, value in {
        "env": "Other-v0",
        "pixels": PixelSpec((6, 4)),
        "action_space": spaces.Discrete(4),
        "variables": ("health",),
        "frame_skip": 2,
    }.items():
        wrong, _ = make_file(tmp_path, name="c.h5", **{field: value})
        with pytest.raises(UserError, match=f"cannot be read as one dataset: {field} is"):
            merge([path, wrong], tmp_path / "x.h5")
        with pytest.raises(UserError, match=f"{field} is"):
            Dataset([path, wrong])
    part_again, _ = make_file(tmp_path, name="d.h5", num=3)
    with pytest.raises(UserError, match=r"episode 0 of seed 7 is in '.*a.h5' and again in '.*d.h5'"):
        merge([path, part_again], tmp_path / "x.h5")
    with pytest.raises(UserError, match="again in"):
        Dataset([path, path])
    with pytest.raises(UserError, match="no file was given"):
        merge([], tmp_path / "x.h5")
    with pytest.raises(UserError, match="one of the files to merge"):
        merge([path], path)
    assert not (tmp_path / "x.h5").exists()

    make_file(tmp_path, name="b.h5", seed=9)
    for act in (Dataset, verify):
        with pytest.raises(UserError, match=r"b.h5' has changed since it was merged into '.*m.h5'"):
            act(merged)
    other.unlink()
    for act in (Dataset, verify):
        with pytest.raises(UserError, match=r"b.h5' among others, and that file is missing"):
            act(merged)
