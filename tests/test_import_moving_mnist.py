"""Moving MNIST: the motion of the paper, splits that share no digit, and the public test set's layout."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from worldmodel.common.errors import UserError
from worldmodel.data import Dataset
from worldmodel.data.importers import ImportOptions, convert
from worldmodel.data.importers.moving_mnist_importer import moving_digits, read_digits
from worldmodel.data.splits import split_of


def write_digits(path: Path, count: int = 20) -> np.ndarray:
    """Digits of one brightness each, 10 + their number, as the CSV of the asset: 784 pixels and a label."""
    digits = np.broadcast_to((np.arange(count) + 10)[:, None], (count, 784))
    rows = np.concatenate([digits, np.arange(count)[:, None] % 10], axis=1)
    with gzip.open(path, "wt") as file:
        file.writelines(",".join(map(str, row)) + "\n" for row in rows.tolist())
    return digits.reshape(-1, 28, 28).astype(np.uint8)


def test_a_label_is_found_before_and_after_the_pixels(tmp_path: Path) -> None:
    digits = np.zeros((12, 784), int)
    digits[:, 1:-1] = np.arange(12)[:, None] + 100
    labels = np.arange(12)[:, None] % 10
    for name, columns in (("last", (digits, labels)), ("first", (labels, digits))):
        np.savetxt(tmp_path / name, np.concatenate(columns, axis=1), "%d", ",")
        assert np.array_equal(read_digits(tmp_path / name).reshape(12, 784), digits), name
    for column in (np.zeros((12, 1), int), np.full((12, 1), 11)):  # may be in both places, or in none
        digits[:, [0, -1]] = column
        np.savetxt(tmp_path / "none", np.concatenate([digits, column], axis=1), "%d", ",")
        with pytest.raises(UserError, match="the label is not clearly the first or the last"):
            read_digits(tmp_path / "none")


def test_digits_move_straight_and_bounce() -> None:
    """The rule of the paper's generator, one digit and one coordinate at a time."""
    digits = np.zeros((2, 28, 28), np.uint8)
    digits[0, 0, 0], digits[1, 0, 0] = 100, 200
    frames = moving_digits(digits, 60, np.random.default_rng(4))
    rng = np.random.default_rng(4)
    places, angles = rng.random((2, 2)), rng.random(2) * 2 * np.pi
    bounces = 0
    for i, value in enumerate((100, 200)):
        place, velocity = list(places[i]), [np.sin(angles[i]), np.cos(angles[i])]
        for t in range(60):
            for axis in range(2):
                place[axis] += velocity[axis] * 0.1
                if place[axis] <= 0 or place[axis] >= 1:
                    place[axis] = min(max(place[axis], 0.0), 1.0)
                    velocity[axis] = -velocity[axis]
                    bounces += 1
            row, column = int(36 * place[0]), int(36 * place[1])
            assert frames[t, row, column] in (value, 200), (i, t)
    assert bounces > 10
    assert frames.shape == (60, 64, 64)


def test_generated_sequences_share_no_digit_between_splits(tmp_path: Path) -> None:
    write_digits(tmp_path / "digits.csv.gz")
    options = ImportOptions(seed=3, num_sequences=20, num_frames=5)
    with Dataset(convert("moving-mnist", tmp_path / "digits.csv.gz", tmp_path / "a.h5", options)) as data:
        assert data.num_episodes == 20
        assert data.header.split_rule == "given"
        assert data.frames(0).shape == (5, 64, 64, 3)
        for i in range(20):
            frames = data.frames(i)
            assert (frames == frames[..., :1]).all(), "grey"
            numbers = np.unique(frames)[1:].astype(int) - 10
            assert data.splits[i] == split_of(3, i)
            assert {split_of(3, number) for number in numbers} == {data.splits[i]}
        first = data.frames(7)
    options = ImportOptions(seed=3, num_sequences=10, num_frames=3)
    with Dataset(convert("moving-mnist", tmp_path / "digits.csv.gz", tmp_path / "b.h5", options)) as data:
        assert (data.frames(7) == first[:3]).all(), "a sequence depends on the seed and its number alone"
    with Dataset(
        convert(
            "moving-mnist",
            tmp_path / "digits.csv.gz",
            tmp_path / "c.h5",
            ImportOptions(seed=4, num_sequences=10, num_frames=3),
        )
    ) as data:
        assert (data.frames(7) != first[:3]).any()


def test_the_public_test_set_is_the_test_split(tmp_path: Path) -> None:
    sequences = np.random.default_rng(0).integers(0, 256, (20, 3, 64, 64), np.uint8)
    np.save(tmp_path / "mnist_test_seq.npy", sequences)
    with Dataset(convert(None, tmp_path / "mnist_test_seq.npy", tmp_path / "a.h5")) as data:
        assert data.split_counts == {"train": 0, "validation": 0, "test": 3}
        for i in range(3):
            assert (data.frames(i) == sequences[:, i, :, :, None]).all()
    with pytest.raises(UserError, match="nothing is generated; leave out num_sequences"):
        convert(None, tmp_path / "mnist_test_seq.npy", tmp_path / "b.h5", ImportOptions(num_sequences=5))
    np.save(tmp_path / "mnist_test_seq.npy", sequences.astype(np.float32))
    with pytest.raises(UserError, match=r"has shape \(20, 3, 64, 64\) float32; wanted \(frames, sequences"):
        convert(None, tmp_path / "mnist_test_seq.npy", tmp_path / "b.h5")


def test_digits_of_other_layouts(tmp_path: Path) -> None:
    digits = write_digits(tmp_path / "d.csv.gz")
    idx = (0x803).to_bytes(4, "big") + b"".join(n.to_bytes(4, "big") for n in digits.shape) + digits.tobytes()
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx)
    assert (read_digits(tmp_path / "train-images-idx3-ubyte") == digits).all()
    assert (read_digits(tmp_path / "d.csv.gz") == digits).all()
    bad = tmp_path / "bad"
    for content, sentence in (
        (idx[:-1], "cannot be read as digits: cannot reshape"),
        (b"1,2,3\n", "3 numbers in a row; wanted CSV with 784"),
        (b",".join([b"256"] * 784) + b"\n", r"numbers in 256 \.\. 256"),
        (b"\x1f\x8b broken", "cannot be read as digits"),
        (b"a,b\n", "cannot be read as digits: could not convert"),
    ):
        bad.write_bytes(content)
        with pytest.raises(UserError, match=rf"'{bad}' .*{sentence}"):
            read_digits(bad)
    write_digits(bad, 4)
    with pytest.raises(UserError, match=r"has 4 digits, none for the .* split; wanted 10 or more"):
        convert("moving-mnist", bad, tmp_path / "a.h5")


@pytest.mark.slow
def test_real_digits_move(tmp_path: Path) -> None:
    options = ImportOptions(num_sequences=30)
    try:
        path = convert(None, "mnist-5k", tmp_path / "a.h5", options)
    except UserError as error:
        if "could not be fetched" not in str(error):
            raise
        pytest.skip(f"offline: {error}")
    with Dataset(path) as data:
        assert data.split_counts == {"train": 24, "validation": 3, "test": 3}
        frames = data.frames(0)
        assert frames.shape == (20, 64, 64, 3)
        bright = (frames[..., 0] > 128).mean(axis=(1, 2))
        assert 0.02 < bright.min() < bright.max() < 0.15, "two digits of some 100 bright pixels each"
