"""Import of RoboNet (Dasari et al. 2019, arXiv 1910.11215) from its HDF5 files, one per episode.

Shapes: T steps, T+1 frames of H x W pixels, A numbers per action.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.data.episode import Episode
from worldmodel.data.importers.frame_conversion import fit_frames
from worldmodel.data.importers.imported_dataset import (
    ImportedDataset,
    ImportOptions,
    imported_episode,
    imported_header,
    source_files,
)

SUFFIXES = (".hdf5", ".h5")


@dataclass(frozen=True)
class _Scan:
    """What a file has besides frames: numbers per action, and the robot ("" if it is not named)."""

    action_dim: int
    robot: str


def open_robonet(source: Path, options: ImportOptions) -> ImportedDataset:
    """Check a folder of RoboNet's HDF5 files, in the order of their paths.

    Read are `policy/actions` (T, A) and the frames of one camera, `env/camN_video`: the dataset `frames`, which holds
    the bytes of an MP4 or raw (T+1, H, W, 3) uint8, or one dataset of JPEG bytes for each frame, `frame0`, `frame1`
    and so on. The attribute `image_format` (RGB or BGR) is respected. Frames and actions beyond the shorter of both
    are left out. The robot in `metadata` is the class of an episode. RoboNet has no official splits.

    Args:
        source: the folder.
        options: options of the import. `camera` is the number of the camera, 0 if not given; `action_dim` pads the
            actions of robots with fewer numbers with zeros, as the public loader can.

    Raises:
        UserError: a file is damaged or has another layout; the message names file and dataset.
    """
    camera = options.camera or "0"
    if not camera.isdecimal():
        raise UserError(f"camera={camera!r}; wanted its number, such as 0.")
    paths = source_files(source, SUFFIXES, "HDF5 files")
    scans = [_scan(path) for path in paths]
    width = options.action_dim or scans[0].action_dim
    for scan, path in zip(scans, paths, strict=True):
        if scan.action_dim > width or (scan.action_dim < width and options.action_dim is None):
            largest = max(scan.action_dim for scan in scans)
            raise UserError(
                f"'{path}': policy/actions has {scan.action_dim} numbers per action; wanted {width}. Give --action-dim "
                f"{largest} to pad all to the largest."
            )
    robots = sorted({scan.robot for scan in scans} - {""})
    size = _read(paths[0], camera)[0].shape[1:3]
    space = spaces.Box((None,) * width, (None,) * width)
    header = imported_header("robonet", options, size, space, robots, [None] * len(paths))

    def episodes() -> Iterator[Episode]:
        for index, (path, scan) in enumerate(zip(paths, scans, strict=True)):
            frames, actions = _read(path, camera)
            if options.size is None and frames.shape[1:3] != size:
                found = f"frames of {frames.shape[1:3]}, the first file has {size}"
                raise UserError(f"'{path}' has {found}; give a size to resize all (--size ROWS COLUMNS).")
            frames = fit_frames(frames, header.pixels.size, options.fit or "stretch")
            actions = np.pad(actions, ((0, 0), (0, width - actions.shape[1])))
            label = robots.index(scan.robot) if scan.robot else None
            yield imported_episode(frames, index, f"'{path}'", actions=actions, label=label)
            del frames  # before those of the next episode are read

    return ImportedDataset(header, episodes)


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise UserError(f"'{path}' cannot be read as HDF5: {error}.") from error


def _scan(path: Path) -> _Scan:
    with _open(path) as file:
        actions = file.get("policy/actions")
        if not isinstance(actions, h5py.Dataset) or actions.ndim != 2 or actions.dtype.kind not in "iuf":
            raise UserError(f"'{path}' has no policy/actions of shape (T, A); wanted a file of RoboNet.")
        robot = file["metadata"].attrs.get("robot", "") if "metadata" in file else ""
        return _Scan(actions.shape[1], robot.decode() if isinstance(robot, bytes) else str(robot))


def _read(path: Path, camera: str) -> tuple[np.ndarray, np.ndarray]:
    """(T+1, H, W, 3) uint8 of a camera, and (T, A) float32."""
    name = f"env/cam{camera}_video"
    with _open(path) as file:
        group = file.get(name)
        if not isinstance(group, h5py.Group):
            found = sorted(file["env"]) if "env" in file else sorted(file)
            raise UserError(f"'{path}' has no {name}, but {', '.join(found)}; choose another --camera.")
        try:
            frames = _frames(group)
            actions = np.asarray(file["policy/actions"], np.float32)
        except (OSError, ValueError, RuntimeError, IndexError, ImportError) as error:
            raise UserError(f"'{path}': {name} cannot be read: {error}.") from error
    num_frames = min(len(frames), len(actions) + 1)
    if num_frames < 2:
        raise UserError(f"'{path}' has {len(frames)} frames and {len(actions)} actions; wanted two and one at least.")
    return frames[:num_frames], actions[: num_frames - 1]


def _frames(group: h5py.Group) -> np.ndarray:
    """All frames of a camera, (N, H, W, 3) uint8 RGB.

    Raises:
        ValueError: neither `frames` nor `frame0`, or frames of another type. Errors of the decoders pass.
    """
    data = group.get("frames")
    if data is None:
        # The public loader decodes JPEG with OpenCV, which returns BGR: the bytes of an "RGB" file are swapped.
        count = sum(name.startswith("frame") for name in group)
        missing = [name for name in (f"frame{t}" for t in range(max(count, 1))) if name not in group]
        if missing:
            raise ValueError(f"it has no {missing[0]} but {sorted(group)}, wanted frames, or frame0, frame1, ...")
        pictures = [Image.open(io.BytesIO(group[f"frame{t}"][()].tobytes())) for t in range(count)]
        frames = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
        return frames[..., ::-1] if group["frame0"].attrs.get("image_format", "BGR") == "RGB" else frames
    if not isinstance(data, h5py.Dataset):
        raise ValueError("frames is a group, wanted an array")
    if data.dtype != np.uint8 or data.ndim not in (1, 4):
        raise ValueError(f"frames has shape {data.shape} {data.dtype}, wanted bytes of an MP4 or (T+1, H, W, 3) uint8")
    if data.ndim == 1:
        import imageio.v3 as iio

        frames = np.stack(list(iio.imiter(io.BytesIO(data[()].tobytes()), plugin="pyav", format="rgb24")))
    else:
        frames = np.asarray(data)
    return frames[..., ::-1] if data.attrs.get("image_format", "RGB") == "BGR" else frames
