"""Files of format version 1, written before version 2 existed, are read bit for bit."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from worldmodel.common.errors import UserError
from worldmodel.data import Dataset, Episode, PartWriter, merge, read_part, read_part_header, seal
from worldmodel.data.verification import verify

FILES = Path(__file__).parent / "data" / "dataset-v1"
EXPECTED = json.loads((FILES / "expected.json").read_text())


def digest(episode: Episode) -> str:
    sha = hashlib.sha256()
    for name, array in episode.arrays():
        sha.update(name.encode())
        sha.update(str(array.dtype).encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


@pytest.mark.parametrize(("name", "num"), [("recording.h5", 5), ("merged.h5", 7)])
def test_sealed_and_merged_files(name: str, num: int) -> None:
    assert verify(FILES / name).num_episodes == num
    with Dataset(FILES / name) as data:
        assert data.fingerprint == EXPECTED["fingerprint" if num == 5 else "merged_fingerprint"]
        for number, wanted in enumerate(EXPECTED["episodes"][:num]):
            episode = data.episode(number)
            got = {"index": episode.index, "seed": episode.seed, "policy": episode.policy}
            got |= {"split": str(data.splits[number]), "sha256": digest(episode)}
            assert got == wanted
            assert (episode.label, episode.split) == (None, None)
        assert data.labels.tolist() == [-1] * num
        assert (data.class_names, data.header.split_rule, data.header.action_keys) == ((), "hash", ())
        assert data.header.action_labels == ("stay", "left", "right")


def test_part_files_are_read_and_continued(tmp_path: Path) -> None:
    part = Path(shutil.copy(FILES / "part-000.bin", tmp_path))
    episodes = list(read_part(part))
    assert [digest(e) for e in episodes] == [row["sha256"] for row in EXPECTED["episodes"][:5]]
    assert verify(part).num_episodes == 5
    whole = part.read_bytes()
    part.write_bytes(whole[:-7])  # the recorder was killed inside the last episode
    with PartWriter(part, read_part_header(part)) as writer:
        assert writer.indices == {0, 1, 2, 3}
        writer.append(episodes[4])
    assert part.read_bytes() == whole
    with Dataset(seal([part], tmp_path / "new.h5")) as data:
        assert list(data.episodes_iter()) == episodes


def test_files_of_both_versions_are_read_as_one_dataset(tmp_path: Path) -> None:
    with Dataset(FILES / "second.h5") as data:
        header, episodes = data.header, list(data.episodes_iter())
    with PartWriter(tmp_path / "p", header) as writer:
        for episode in episodes:
            writer.append(episode)
    new = seal([tmp_path / "p"], tmp_path / "new.h5")
    assert new.read_bytes().startswith(b"worldmodel dataset 2\n")
    with Dataset(merge([FILES / "recording.h5", new], tmp_path / "m.h5")) as data:
        assert [digest(e) for e in data.episodes_iter()] == [row["sha256"] for row in EXPECTED["episodes"]]
    verify(tmp_path / "m.h5")


def test_verify_finds_flipped_bytes(tmp_path: Path) -> None:
    path = Path(shutil.copy(FILES / "recording.h5", tmp_path))
    data = path.read_bytes()
    for at in [*range(0, 512, 53), *range(512, len(data), 401)]:
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x04]) + data[at + 1 :])
        with pytest.raises(UserError):
            verify(path)
