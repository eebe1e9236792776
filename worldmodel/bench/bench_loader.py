"""Shuffled clips read per second, compared with the usual methods of reading them from HDF5 with h5py.

Shapes: B clips of a batch, L frames of a clip.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from worldmodel.bench.timing import Job, Measurement, median_rate, median_ratio, time_jobs
from worldmodel.common import spaces
from worldmodel.common.pixels import PixelSpec
from worldmodel.data import ClipSampler, Dataset, Episode, Header, PartWriter, PolicyRecord, seal

BASELINE = "h5py_contiguous"


def bench_loader(
    num_episodes: int = 200,
    steps: int = 200,
    length: int = 16,
    batch_size: int = 64,
    seconds: float = 1.0,
    rounds: int = 5,
    folder: str | Path | None = None,
) -> dict[str, Any]:
    """Measure clips per second of five readers of the same episodes, in interleaved rounds.

    "clip_sampler_ram" and "clip_sampler_memmap" are `ClipSampler` with everything that a batch holds. The three
    baselines read the same clips with h5py, one slice of frames for each clip and nothing else: from the contiguous
    file, and from copies in chunks of 16 frames compressed with gzip (level 1) and with lzf. The system has every
    file in its cache. The frames compress as a game's do: a background of blocks that does not move, and a few
    moving squares.

    Args:
        num_episodes: episodes of the file made for it; 0.5 GB at the default 200 of 200 steps.
        steps: T of each.
        length: L.
        batch_size: B.
        seconds: duration of each measurement.
        rounds: repetitions.
        folder: where the files are made (and removed); None for the system's temporary folder.

    Returns:
        {"length", "batch_size", "frame_shape", "num_episodes", "steps", "file_bytes", "rounds", "seconds",
        "readers": {name: {"clips_per_second" (median of the rounds), "lowest", "highest", "bytes",
        "times_contiguous" (the ratio to "h5py_contiguous")}}}.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name, ExitStack() as files:
        path = _write_dataset(Path(name), num_episodes, steps)
        copies = {"contiguous": path, **{kind: _write_compressed(path, kind) for kind in ("gzip", "lzf")}}
        sizes = {f"h5py_{kind}": copy.stat().st_size for kind, copy in copies.items()}
        mapped = files.enter_context(Dataset(path))
        loaded = files.enter_context(Dataset(path, cache="ram"))
        order = ClipSampler(mapped, length, batch_size)
        readers: dict[str, Callable[[int], object]] = {
            "clip_sampler_ram": ClipSampler(loaded, length, batch_size).batch,
            "clip_sampler_memmap": order.batch,
        }
        for kind, copy in copies.items():
            readers[f"h5py_{kind}"] = _h5py_reader(files.enter_context(h5py.File(copy, "r"))["frames"], order)
        np.asarray(mapped.frames_of_source(0)).max()  # brings every page into the system's cache
        measured = time_jobs(_jobs(readers, seconds), rounds)
    return {
        "length": length,
        "batch_size": batch_size,
        "frame_shape": [64, 64, 3],
        "num_episodes": num_episodes,
        "steps": steps,
        "file_bytes": sizes[BASELINE],
        "rounds": rounds,
        "seconds": seconds,
        "readers": {
            name: _figures(measured, name, batch_size) | {"bytes": sizes.get(name, sizes[BASELINE])}
            for name in measured
        },
    }


def _jobs(readers: dict[str, Callable[[int], object]], seconds: float) -> dict[str, Job]:
    """Each reads the next batch of an order that all readers share, so that none reads a batch twice."""
    order = itertools.count()

    def read_next(read: Callable[[int], object]) -> Callable[[], object]:
        return lambda: read(next(order))

    return {name: Job(read_next(read), seconds) for name, read in readers.items()}


def _figures(measured: dict[str, list[Measurement]], name: str, batch_size: int) -> dict[str, Any]:
    rates = [m.rate * batch_size for m in measured[name]]
    return {
        "clips_per_second": median_rate(measured[name]) * batch_size,
        "lowest": min(rates),
        "highest": max(rates),
        "times_contiguous": median_ratio(measured[name], measured[BASELINE]),
    }


def _write_dataset(folder: Path, num_episodes: int, steps: int) -> Path:
    """A sealed file of 64 x 64 frames, three actions and two variables."""
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
            for _ in range(4):  # moving squares
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


def _write_compressed(path: Path, compression: str) -> Path:
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
    """Reads the clips of a batch, one slice each, into a new array (B, L, H, W, 3)."""
    offsets, length = order.dataset.frame_offsets, order.length

    def read(step: int) -> np.ndarray:
        episode, start = order.locate(step)
        out = np.empty((len(episode), length, *frames.shape[1:]), np.uint8)
        for i, row in enumerate((offsets[episode] + start).tolist()):
            out[i] = frames[row : row + length]
        return out

    return read
