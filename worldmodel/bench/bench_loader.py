"""How fast shuffled clips are read, beside the usual ways of reading them from HDF5."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from worldmodel.common import spaces
from worldmodel.common.pixels import PixelSpec
from worldmodel.data import ClipSampler, Dataset, Episode, Header, PartWriter, PolicyRecord, seal


def bench_loader(
    num_episodes: int = 200,
    steps: int = 200,
    length: int = 16,
    batch_size: int = 64,
    seconds: float = 1.0,
    rounds: int = 5,
    folder: str | Path | None = None,
) -> dict[str, Any]:
    """Measure clips per second of five readers of the same episodes in turn.

    "ours_ram" and "ours_memmap" are `ClipSampler` with everything that a batch holds. The three rivals read
    the same clips with h5py, one slice of frames a clip, and nothing else: from the contiguous file, and from
    copies in chunks of 16 frames compressed with gzip (level 1) and with lzf. The system has every file in
    its cache. The frames compress as a game's do: a still picture of blocks and a few moving squares.

    Args:
        num_episodes: episodes of the file made for it; 0.5 GB at the default 200 of 200 steps.
        steps: T of each.
        length: frames of a clip.
        batch_size: clips of a batch.
        seconds: how long each reader is timed, each time.
        rounds: how often all readers are timed in turn.
        folder: where the files are made (and removed); None for the system's temporary folder.

    Returns:
        {"length", "batch_size", "frame_shape", "num_episodes", "steps", "file_bytes", "rounds", "seconds",
        "readers": {name: {"clips_per_second" (median of the rounds), "lowest", "highest", "bytes",
        "times_contiguous" (the ratio to "h5py_contiguous")}}}.
    """
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = _make(Path(place), num_episodes, steps)
        copies = {name: _compressed(path, name) for name in ("gzip", "lzf")}
        sizes = {name: copy.stat().st_size for name, copy in copies.items()}
        with Dataset(path) as mapped, Dataset(path, cache="ram") as loaded:
            order = ClipSampler(mapped, length, batch_size)
            files = {name: h5py.File(p, "r") for name, p in {"contiguous": path, **copies}.items()}
            readers: dict[str, Callable[[int], object]] = {
                "ours_ram": ClipSampler(loaded, length, batch_size).batch,
                "ours_memmap": order.batch,
            }
            for name, file in files.items():
                readers[f"h5py_{name}"] = _h5py_reader(file["frames"], order)
            rates: dict[str, list[float]] = {name: [] for name in readers}
            for reader in readers.values():
                reader(0)
            np.asarray(mapped.frames_of_source(0)).max()  # every page is in the system's cache
            step = 0
            for _ in range(rounds):
                for name, reader in readers.items():
                    begin, step = time.perf_counter(), step + 1
                    first = step
                    while (now := time.perf_counter()) - begin < seconds:
                        reader(step)
                        step += 1
                    rates[name].append((step - first) * batch_size / (now - begin))
            for file in files.values():
                file.close()
        medians = {name: statistics.median(values) for name, values in rates.items()}
        return {
            "length": length,
            "batch_size": batch_size,
            "frame_shape": [64, 64, 3],
            "num_episodes": num_episodes,
            "steps": steps,
            "file_bytes": path.stat().st_size,
            "rounds": rounds,
            "seconds": seconds,
            "readers": {
                name: {
                    "clips_per_second": medians[name],
                    "lowest": min(values),
                    "highest": max(values),
                    "bytes": sizes.get(name.removeprefix("h5py_"), path.stat().st_size),
                    "times_contiguous": medians[name] / medians["h5py_contiguous"],
                }
                for name, values in rates.items()
            },
        }


def _make(folder: Path, num_episodes: int, steps: int) -> Path:
    """A sealed file of 64 x 64 episodes with three choices of action and two variables."""
    header = Header(
        env="worldmodel/Bench-v0",
        pixels=PixelSpec((64, 64)),
        action_space=spaces.Discrete(3),
        seed=0,
        num_episodes=num_episodes,
        policies=(PolicyRecord("random"),),
        variables=("ammo", "health"),
    )
    rng = np.random.default_rng(0)
    part = folder / "bench.part"
    with PartWriter(part, header) as writer:
        for index in range(num_episodes):
            walls = rng.integers(0, 255, (16, 16, 3), np.uint8).repeat(4, axis=0).repeat(4, axis=1)
            frames = np.broadcast_to(walls, (steps + 1, 64, 64, 3)).copy()
            for _ in range(4):  # squares that move
                path = (rng.integers(56, size=2) + rng.integers(-2, 3, (steps + 1, 2)).cumsum(0)) % 56
                color = rng.integers(0, 255, 3, np.uint8)
                for frame, (y, x) in zip(frames, path.tolist(), strict=True):
                    frame[y : y + 8, x : x + 8] = color
            last = np.arange(steps) == steps - 1
            writer.append(
                Episode(
                    frames=frames,
                    frame_valid=np.ones(steps + 1, bool),
                    actions=rng.integers(0, 3, steps),
                    rewards=np.ones(steps, np.float32),
                    terminations=last,
                    truncations=np.zeros(steps, bool),
                    variables={name: np.zeros(steps + 1, np.float32) for name in header.variables},
                    index=index,
                    seed=index,
                    policy="random",
                )
            )
    return seal([part], folder / "bench.h5", remove_parts=True)


def _compressed(path: Path, compression: str) -> Path:
    """A copy of the frames in chunks of 16, compressed."""
    out = path.with_name(f"{compression}.h5")
    options = 1 if compression == "gzip" else None
    with h5py.File(path, "r") as source, h5py.File(out, "w") as file:
        frames = source["frames"]
        copy = file.create_dataset(
            "frames",
            frames.shape,
            frames.dtype,
            chunks=(16, *frames.shape[1:]),
            compression=compression,
            compression_opts=options,
        )
        for begin in range(0, len(frames), 1024):
            copy[begin : begin + 1024] = frames[begin : begin + 1024]
    return out


def _h5py_reader(frames: h5py.Dataset, order: ClipSampler) -> Callable[[int], object]:
    """Reads the same clips, one slice each, into a fresh array."""
    offsets, length = order.dataset.frame_offsets, order.length

    def read(step: int) -> np.ndarray:
        episode, start = order.locate(step)
        out = np.empty((len(episode), length, *frames.shape[1:]), np.uint8)
        for i, row in enumerate((offsets[episode] + start).tolist()):
            out[i] = frames[row : row + length]
        return out

    return read
