"""Small sources in the layouts that the importers document, written by the tests."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import imageio.v3 as iio
import numpy as np

from worldmodel.data.importers.tfrecord import masked_crc32c

COLORS = np.asarray([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


def some_frames(seed: int, num: int = 4, size: tuple[int, int] = (8, 6)) -> np.ndarray:
    """Frames of four colours, which a GIF stores exactly: (num, H, W, 3) uint8."""
    return COLORS[np.random.default_rng(seed).integers(0, 4, (num, *size))]


def write_gif(path: Path, frames: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(path, frames, plugin="pillow", duration=100, loop=0)


def varint(number: int) -> bytes:
    """A protobuf number of base 128."""
    data = b""
    while number > 127:
        data, number = data + bytes([number & 127 | 128]), number >> 7
    return data + bytes([number])


def field(number: int, data: bytes) -> bytes:
    """A protobuf field of bytes."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(features: dict[str, bytes | list[float]], packed: bool = True) -> bytes:
    """A tf.train.Example: bytes are a bytes_list, numbers a float_list."""
    entries = b""
    for key, value in features.items():
        if isinstance(value, bytes):
            feature = field(1, field(1, value))
        elif packed:
            feature = field(2, field(1, struct.pack(f"<{len(value)}f", *value)))
        else:
            feature = field(2, b"".join(varint(1 << 3 | 5) + struct.pack("<f", x) for x in value))
        entries += field(1, field(1, key.encode()) + field(2, feature))
    return field(1, entries)


def write_records(path: Path, records: list[bytes]) -> None:
    """A TFRecord file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for record in records:
            length = struct.pack("<Q", len(record))
            file.write(length + struct.pack("<I", masked_crc32c(length)))
            file.write(record + struct.pack("<I", masked_crc32c(record)))


def bair_record(seed: int, num: int = 4, side: int = 6, packed: bool = True, position: bool = True) -> bytes:
    """A record of BAIR robot pushing: `num` frames of two cameras, actions and positions."""
    rng = np.random.default_rng(seed)
    main, aux = rng.integers(0, 256, (2, num, side, side, 3), np.uint8)
    features: dict[str, bytes | list[float]] = {}
    for t in range(num):
        features[f"{t}/image_main/encoded"] = main[t].tobytes()
        features[f"{t}/image_aux1/encoded"] = aux[t].tobytes()
        features[f"{t}/action"] = [seed, t, 0.25, -1.5]
        if position:
            features[f"{t}/endeffector_pos"] = [0.5 * t, seed, -0.125]
    return example(features, packed)


def write_bair(folder: Path, num_train: int = 12, num_test: int = 2) -> None:
    """The folders train and test; record i has the seed i."""
    half = num_train // 2
    write_records(folder / "train" / "traj_0_to_255.tfrecords", [bair_record(i) for i in range(half)])
    write_records(folder / "train" / "traj_256_to_511.tfrecords", [bair_record(i) for i in range(half, num_train)])
    seeds = range(num_train, num_train + num_test)
    write_records(folder / "test" / "traj_0_to_255.tfrecords", [bair_record(i, packed=False) for i in seeds])


def npz_source(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for i in range(3):
        np.savez(folder / f"{i}.npz", frames=some_frames(i), actions=np.array([0, 1, 2]))
    return folder


def video_source(folder: Path) -> Path:
    for i in range(3):
        write_gif(folder / f"{i}.gif", some_frames(i))
    return folder


def bair_source(folder: Path) -> Path:
    write_bair(folder)
    return folder


def write_videogpt(path: Path, num_train: int = 3, num_test: int = 2, **datasets: np.ndarray) -> None:
    """VideoGPT's layout: video i has 2 + i % 3 frames of the seed i; test videos follow train videos."""
    arrays: dict[str, np.ndarray] = {}
    for part, numbers in (("train", range(num_train)), ("test", range(num_train, num_train + num_test))):
        videos = [some_frames(i, 2 + i % 3) for i in numbers]
        arrays[f"{part}_data"] = np.concatenate(videos)
        arrays[f"{part}_idx"] = np.cumsum([0, *map(len, videos)])[:-1]
    with h5py.File(path, "w") as file:
        for name, array in (arrays | datasets).items():
            file[name] = array


def videogpt_source(folder: Path) -> Path:
    path = folder.with_suffix(".hdf5")
    write_videogpt(path)
    return path


def mnist_source(folder: Path) -> Path:
    path = folder.with_suffix(".npy")
    np.save(path, np.random.default_rng(0).integers(0, 256, (3, 4, 8, 6), np.uint8))
    return path


def write_video_csv(folder: Path, name: str, text: str, num_frames: int = 4) -> None:
    """A video and its CSV file."""
    write_gif(folder / f"{name}.gif", some_frames(0, num_frames))
    (folder / f"{name}.csv").write_text(text)


def video_csv_source(folder: Path) -> Path:
    for name in ("a", "b"):
        write_video_csv(folder, name, "action\n0\n1\n2\n")
    return folder


def write_robonet(path: Path, seed: int, encoding: str = "raw", action_dim: int = 4, robot: str = "sawyer") -> None:
    """A file of RoboNet: five frames of two cameras (16 x 16), five states, four actions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for camera in range(2):
            frames = np.full((5, 16, 16, 3), (200, 40 * camera, 10 * seed), np.uint8)
            group = file.create_group(f"env/cam{camera}_video")
            if encoding == "jpg":
                for t, frame in enumerate(frames):
                    group[f"frame{t}"] = np.frombuffer(iio.imwrite("<bytes>", frame, extension=".jpg"), np.uint8)
                    group[f"frame{t}"].attrs["image_format"] = "BGR"
                continue
            if encoding == "mp4":
                data = iio.imwrite("<bytes>", frames, extension=".mp4", plugin="pyav", codec="libx264", fps=5)
                group["frames"] = np.frombuffer(data, np.uint8)
            else:
                group["frames"] = frames[..., ::-1] if encoding == "bgr" else frames
            group["frames"].attrs["image_format"] = "BGR" if encoding == "bgr" else "RGB"
        file["env/state"] = np.zeros((5, 5))
        file["policy/actions"] = np.arange(4.0 * action_dim).reshape(4, action_dim)
        file.create_group("metadata").attrs["robot"] = robot


def robonet_source(folder: Path) -> Path:
    for i in range(2):
        write_robonet(folder / f"{i}.hdf5", i)
    return folder


# A small source of each format.
SOURCES: dict[str, Callable[[Path], Path]] = {
    "npz": npz_source,
    "video": video_source,
    "video-csv": video_csv_source,
    "bair": bair_source,
    "videogpt-hdf5": videogpt_source,
    "robonet": robonet_source,
    "moving-mnist": mnist_source,
}
