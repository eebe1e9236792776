"""Every reader checks the CRC and the actions of an episode when it first reads it."""

from __future__ import annotations

import pickle
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recordings import SPACES, make_episode, make_file, make_header, write_part

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.data import ClipSampler, Dataset, Episode, Header, contact_sheet, merge, seal, summarize
from worldmodel.data.sources import Source, open_source
from worldmodel.data.verification import verify

Reader = Callable[[Dataset, int, Path], Any]
Recording = tuple[Path, list[Episode]]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """A file of 12 episodes; tests damage copies of it."""
    return make_file(tmp_path_factory.mktemp("recording"))


def clips_of(data: Dataset, number: int, folder: Path) -> Any:
    return ClipSampler(data, 2, 3, split=None).gather(np.array([number, number]), np.array([0, 0]))


READERS: dict[str, Reader] = {
    "episode": lambda data, number, _: data.episode(number),
    "negative number": lambda data, number, _: data.episode(number - len(data)),
    "frames": lambda data, number, _: data.frames(number, 0, 1),
    "clips": clips_of,
    "contact sheet": lambda data, number, folder: contact_sheet(data, folder / "x.png", num_episodes=len(data)),
    "summary": lambda data, number, _: summarize(data),
}


def flip(path: Path, episode: int, array: str, value: int = 1) -> None:
    """Change one byte of an array of an episode, in its last entry."""
    source = open_source(path)
    offset, dtype, shape = source.locations[array]
    per_frame = array == "frames" or array == "frame_valid" or array.startswith("variables/")
    entry_bytes = dtype.itemsize * int(np.prod(shape[1:]))
    first = int(source.table["frame_offset" if per_frame else "step_offset"][episode])
    last = first + int(source.table["length"][episode]) - (0 if per_frame else 1)
    with open(path, "r+b") as file:
        file.seek(offset + last * entry_bytes)
        byte = file.read(1)[0]
        file.seek(offset + last * entry_bytes)
        file.write(bytes([byte ^ value]))


@pytest.mark.parametrize("cache", ["memmap", "ram"])
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("array", ["frames", "frame_valid", "variables/ammo", "actions", "rewards", "terminations"])
def test_a_flipped_bit_is_found_by_every_reader(
    recording: Recording, tmp_path: Path, array: str, reader: str, cache: str
) -> None:
    path, episodes = Path(shutil.copy(recording[0], tmp_path)), recording[1]
    flip(path, 7, array)
    sentence = (
        rf"'{re.escape(str(path))}': episode 7 \(index 7\): the CRC-32 of its arrays is [0-9a-f]{{8}}, stored is "
        rf"{episodes[7].crc():08x}\. The file is damaged: copy it again, or record it again\."
    )
    data = Dataset(path, cache=cache)
    for _ in range(2):  # it is not forgotten after the first error
        with pytest.raises(UserError, match=f"^{sentence}$"):
            READERS[reader](data, 7, tmp_path)
    for number in (0, 6, 8, 11):  # other episodes can be read
        assert data.episode(number) == episodes[number]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), reader=st.sampled_from(["episode", "clips"]))
def test_no_flipped_bit_of_an_array_reaches_a_reader(
    recording: Recording, tmp_path: Path, position: float, bit: int, reader: str
) -> None:
    path, episodes = tmp_path / "a.h5", recording[1]
    source = open_source(recording[0])
    content = bytearray(recording[0].read_bytes())
    ranges = [(o, o + d.itemsize * int(np.prod(s))) for o, d, s in source.locations.values()]
    sizes = np.cumsum([stop - start for start, stop in ranges])
    chosen = int(position * sizes[-1])
    number = int(np.searchsorted(sizes, chosen, side="right"))
    offset = ranges[number][1] - int(sizes[number] - chosen)
    content[offset] ^= 1 << bit
    path.write_bytes(content)
    data = Dataset(path)
    bad = []
    for number, episode in enumerate(episodes):
        try:
            got = READERS[reader](data, number, tmp_path)
        except UserError:
            bad.append(number)
        else:
            assert got == episode if reader == "episode" else np.array_equal(got.frames[0], episode.frames[:2])
    assert len(bad) == 1


def test_merged_files_and_crops_name_the_source_and_its_episode(tmp_path: Path) -> None:
    first, _ = make_file(tmp_path, name="a.h5")
    second, episodes = make_file(tmp_path, name="b.h5", seed=8)
    merged = merge([first, second], tmp_path / "m.h5")
    flip(second, 3, "frames")
    for data in (Dataset(merged), Dataset([first, second]), Dataset(merged, crop=(0, 2, 0, 2))):
        for reader in ("episode", "frames", "clips"):
            with pytest.raises(UserError, match=rf"^'{second}': episode 3 \(index 3\): the CRC-32"):
                READERS[reader](data, 15, tmp_path)
        assert np.array_equal(data.frames(16)[:, :2, :2], episodes[4].frames[:, :2, :2])


@pytest.mark.parametrize("space", SPACES)
def test_actions_outside_the_space_are_refused_although_the_crc_is_correct(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: spaces.Space
) -> None:
    header = make_header(action_space=space)
    episodes = [make_episode(header, i) for i in range(5)]
    episodes[3].actions.reshape(-1)[2 if space.shape else -1] = 9
    with monkeypatch.context() as context:
        context.setattr(Header, "check", lambda *_: None)  # a writer with a bug
        path = seal([write_part(tmp_path / "p", header, episodes)], tmp_path / "a.h5")
    sentence = rf"^'{path}': episode 3 \(index 3\): actions: 9(\.0)? at .* The file is damaged: copy it again"
    for reader in ("episode", "frames", "clips"):
        data = Dataset(path)
        with pytest.raises(UserError, match=sentence):
            READERS[reader](data, 3, tmp_path)
        assert data.episode(4) == episodes[4]
    for function in (lambda: Dataset(path).flat("actions"), lambda: summarize(Dataset(path)), lambda: verify(path)):
        with pytest.raises(UserError, match=sentence):
            function()
    assert len(Dataset(path).flat("rewards")) == 15


def test_each_episode_is_read_once_for_its_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = make_file(tmp_path)
    checked: list[int] = []
    check = Source.check_episode

    def counted(self: Source, number: int) -> None:
        checked.append(number)
        check(self, number)

    monkeypatch.setattr(Source, "check_episode", counted)
    data = Dataset(path)
    assert checked == []  # opening reads only the metadata
    sampler = ClipSampler(data, 2, 8, split=None)
    threads = [threading.Thread(target=lambda: [sampler.batch(step) for step in range(20)]) for _ in range(2)]
    sampler.batch(0)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    list(data.episodes_iter())
    assert set(checked) == set(range(12))
    before = len(checked)
    list(data.episodes_iter())
    sampler.batch(3)
    assert len(checked) == before
    again = pickle.loads(pickle.dumps(data))  # another object checks for itself
    again.episode(0)
    assert len(checked) == before + 1
