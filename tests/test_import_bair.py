"""BAIR robot pushing: TFRecords read without TensorFlow, their CRCs checked, official splits kept."""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import numpy as np
import pytest
from import_sources import bair_record, example, write_bair, write_records

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.data import Dataset
from worldmodel.data.importers import ImportOptions, convert
from worldmodel.data.importers.crc32c import POLYNOMIAL, crc32c
from worldmodel.data.importers.tfrecord import masked_crc32c
from worldmodel.data.splits import split_of


def bitwise_crc(data: bytes) -> int:
    """CRC-32C by its definition, one bit at a time."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (POLYNOMIAL if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_crc32c_equals_the_published_values_and_the_definition() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert [crc32c(data) for data in (bytes(32), b"\xff" * 32, bytes(range(32)))] == [
        0x8A9136AA,
        0x62A8AB43,
        0x46DD794E,
    ]  # RFC 3720, B.4
    for length in (0, 1, 1023, 1024, 1025, 4096, 5001):
        data = random.Random(length).randbytes(length)
        assert crc32c(data) == bitwise_crc(data), length
    assert masked_crc32c(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) % 2**32
    assert crc32c(b"123456789") != zlib.crc32(b"123456789")


def test_frames_actions_positions_and_splits_of_bair(tmp_path: Path) -> None:
    write_bair(tmp_path / "softmotion30_44k")
    with Dataset(convert(None, tmp_path, tmp_path / "a.h5", ImportOptions(seed=3))) as data:
        assert data.header.env == "imported/bair"
        assert data.header.action_space == spaces.Box((None,) * 4, (None,) * 4)
        assert data.header.variables == ("endeffector_x", "endeffector_y", "endeffector_z")
        assert data.header.split_rule == "given"
        seeds = [int(data.episode(number).actions[0, 0]) for number in range(14)]
        # The files are sorted by path, so the two test records come first.
        assert seeds == [12, 13, *range(12)]
        train = ["validation" if split_of(3, i) == "validation" else "train" for i in range(12)]
        assert data.splits.tolist() == ["test", "test", *train]
        assert "validation" in train
        episode = data.episode(2)
        _, aux = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 6, 3), np.uint8)
        assert episode.frames.tobytes() == aux.tobytes()
        assert episode.actions.tolist() == [[0, t, 0.25, -1.5] for t in range(3)]
        assert episode.variables["endeffector_x"].tolist() == [0, 0.5, 1, 1.5]
        assert data.episode(0).actions.tolist() == [[12, t, 0.25, -1.5] for t in range(3)], "not packed"


def test_the_other_camera_a_size_and_the_rule_hash(tmp_path: Path) -> None:
    write_bair(tmp_path / "s", 10, 0)
    options = ImportOptions(camera="image_main", ignore_splits=True)
    with Dataset(convert("bair", tmp_path / "s", tmp_path / "a.h5", options)) as data:
        main, _ = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 6, 3), np.uint8)
        assert data.frames(0).tobytes() == main.tobytes()
        assert data.header.split_rule == "hash"
    with Dataset(convert("bair", tmp_path / "s", tmp_path / "b.h5", ImportOptions(size=(3, 3)))) as data:
        assert data.frames(0).shape == (4, 3, 3, 3)
    with pytest.raises(UserError, match=r"unknown camera 'image_aux2'\. Did you mean 'image_aux1'"):
        convert("bair", tmp_path / "s", tmp_path / "c.h5", ImportOptions(camera="image_aux2"))


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        (b"nonsense", "record 1 is no tf.train.Example"),
        (b"", r"record 1 has 0 frames '0/image_aux1/encoded'"),
        (example({"0/image_aux1/encoded": bytes(12), "1/image_aux1/encoded": bytes(11)}), "record 1: a frame has 11 b"),
        (example({f"{t}/image_aux1/encoded": bytes(12) for t in range(2)}), "record 1 has no '0/action'"),
        (
            example({**{f"{t}/image_aux1/encoded": bytes(108) for t in range(2)}, "0/action": b"abc"}),
            "record 1: '0/action' has values of another kind; wanted floats",
        ),
        (
            example({"0/image_aux1/encoded": bytes(12), "1/image_aux1/encoded": bytes(27), "0/action": [1.0]}),
            "record 1 has frames of 2 and 3 rows; wanted frames of one size",
        ),
        (bair_record(1, side=5), r"record 1 has \(5, 5\) frames, 4 .*; wanted \(6, 6\) frames, 4 numbers"),
        (bair_record(1, position=False), r"record 1 has .* the variables \(\); wanted"),
        (bair_record(1)[:-3], "record 1 is no tf.train.Example: a field is cut off"),
    ],
)
def test_wrong_records_are_refused_by_file_and_number(tmp_path: Path, record: bytes, sentence: str) -> None:
    write_records(tmp_path / "s" / "train" / "a.tfrecords", [bair_record(0), record])
    with pytest.raises(UserError, match=rf"a\.tfrecords', {sentence}"):
        convert("bair", tmp_path / "s", tmp_path / "a.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s" / "train" / "a.tfrecords"
    write_records(path, [bair_record(0), bair_record(1)])
    good = path.read_bytes()
    size = len(good) // 2
    for position, sentence in (
        (3, "the length of record 0 is damaged"),
        (size + 9, "the length of record 1 is damaged"),
        (size + 200, r"the data of record 1 is damaged \(wrong CRC\)"),
        (len(good) - 1, "the data of record 1 is damaged"),
    ):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises(UserError, match=sentence):
            convert("bair", tmp_path / "s", tmp_path / "a.h5")
    for end in (len(good) - 1, size + 5, size + 12):
        path.write_bytes(good[:end])
        with pytest.raises(UserError, match=f"is cut off in record 1, at byte {end}"):
            convert("bair", tmp_path / "s", tmp_path / "a.h5")
    path.write_bytes(b"")
    with pytest.raises(UserError, match="files without records"):
        convert("bair", tmp_path / "s", tmp_path / "a.h5")
    write_records(tmp_path / "s" / "b.tfrecords", [bair_record(0)])
    with pytest.raises(UserError, match=r"b\.tfrecords' is in no folder called train or test"):
        convert("bair", tmp_path / "s", tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()
