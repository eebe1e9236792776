"""Sealed files: round trips, reading, verification."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import h5py
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recordings import SPACES, make_episode, make_file, make_header, write_part

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec
from worldmodel.data import Dataset, PartWriter, read_part, seal
from worldmodel.data.splits import SPLITS
from worldmodel.data.verification import verify

DOCS = Path(__file__).parent.parent / "docs" / "file_format.md"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    space=st.sampled_from([*SPACES, spaces.NoAction()]),
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


def test_documented_h5py_example_reads_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_verify_finds_every_flipped_byte_of_a_sealed_file(tmp_path: Path, stride: int) -> None:
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
        with pytest.raises(
            UserError, match=rf"episode {number} \(index {number}\): the CRC-32 of its arrays is .*, stored is {crc}"
        ):
            verify(path)
    assert Dataset(path).num_episodes == 12  # opening reads only the metadata
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
        ("crc", 1, 0, r"episode 1 \(index 1\): the CRC-32 of its arrays"),
    ],
)
def test_verify_checks_the_table_of_episodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int, value: int, sentence: str
) -> None:
    from worldmodel.data import sealing as sealing

    real = sealing._table

    def wrong_table(*arguments: Any) -> Any:  # a writer with a bug, with correct CRCs
        table = real(*arguments)
        table[name][number] = value
        return table

    monkeypatch.setattr(sealing, "_table", wrong_table)
    header = make_header(num_episodes=5)
    part = write_part(tmp_path / "p", header, [make_episode(header, i) for i in range(5)])
    path = seal([part], tmp_path / "a.h5")
    with pytest.raises(UserError, match=sentence):
        verify(path)


def test_files_of_other_formats_and_damaged_files_are_refused(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path)
    data = path.read_bytes()
    header = make_header()
    part = write_part(tmp_path / "p.part", header, [make_episode(header, 0)])
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1
    cases = {
        "empty": (b"", "is empty"),
        "text": (b"hello" * 300, "is not a worldmodel dataset"),
        "short": (data[:60], "user block .* is damaged or incomplete"),
        "cut": (data[:-1], "it was written with"),
        "longer": (data + b"\0", "it was written with"),
        "newer": (data.replace(b"dataset 2\n", b"dataset 3\n", 1), "version 3; this code reads versions 1 to 2"),
    }
    for name, (content, sentence) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=sentence):
            Dataset(tmp_path / name)
    for place, sentence in [
        (tmp_path / "none.h5", "there is no file"),
        (tmp_path / "foreign.h5", "is not a worldmodel dataset but an HDF5 file"),
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
    assert data.episode(11) == episodes[11]  # an open dataset keeps the old file
