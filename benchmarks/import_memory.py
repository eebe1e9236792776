"""Peak memory of `worldmodel data convert` on large sources.

For each layout a source with many frames is written into a temporary folder, and converted in a process of its own, of
which /proc/PID/status is read every few milliseconds (Linux only). A row has:

- `anonymous`: the largest sample of RssAnon, memory that no file backs: what the conversion needs.
- `resident`: VmHWM, the exact peak of the resident memory. It includes pages of mapped files, which the kernel takes
  back when memory is short.
- `growth`: `anonymous` less that of a conversion of a source of a few megabytes: what the size of the source adds.

The layouts `video-long` and `npz-long` have few episodes of 500 MB (videos) and 250 MB, the others many small ones.

    python benchmarks/import_memory.py --megabytes 1500 --out import-memory.json
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MEGABYTE = 10**6
SMALL = 8  # megabytes of the source that growth is measured from
SECONDS_PER_SAMPLE = 0.005
LIMIT = 1000  # megabytes


@dataclass(frozen=True)
class Layout:
    """One kind of source.

    Attributes:
        format: the importer, a key of `IMPORTERS`.
        write: writes a source with about so many bytes of decoded frames into an empty folder; returns the source.
    """

    format: str
    write: Callable[[Path, int], Path]


def noise(shape: Sequence[int]) -> np.ndarray:
    """Frames of noise, uint8."""
    return np.random.default_rng(0).integers(0, 256, tuple(shape), np.uint8)


def write_npz(folder: Path, num_bytes: int, num_frames: int = 200) -> Path:
    """Episodes of 200 frames of 64 x 64, one in a file."""
    frames = noise((num_frames, 64, 64, 3))
    actions = np.zeros(num_frames - 1, np.int64)
    for index in range(max(2, num_bytes // frames.nbytes)):
        np.savez(folder / f"{index:05}.npz", frames=frames, actions=actions)
    return folder


def write_long_npz(folder: Path, num_bytes: int) -> Path:
    """Episodes of 250 MB of frames; shorter ones for a small source."""
    return write_npz(folder, num_bytes, min(250 * MEGABYTE, num_bytes // 2) // (64 * 64 * 3))


def write_videogpt(folder: Path, num_bytes: int) -> Path:
    """VideoGPT's bair.hdf5: videos of 30 frames of 64 x 64; a fifth of them for the test."""
    import h5py

    video, path = noise((30, 64, 64, 3)), folder / "bair.hdf5"
    counts = {"train": max(4, num_bytes * 4 // (5 * video.nbytes)), "test": max(1, num_bytes // (5 * video.nbytes))}
    with h5py.File(path, "w") as file:
        for part, count in counts.items():
            data = file.create_dataset(f"{part}_data", (count * len(video), *video.shape[1:]), np.uint8)
            for index in range(count):
                data[index * len(video) : (index + 1) * len(video)] = video
            file[f"{part}_idx"] = np.arange(count) * len(video)
    return path


def write_robonet(folder: Path, num_bytes: int) -> Path:
    """RoboNet: 31 raw frames of 240 x 320 and 30 actions in a file."""
    import h5py

    frames = noise((31, 240, 320, 3))
    for index in range(max(2, num_bytes // frames.nbytes)):
        with h5py.File(folder / f"{index:05}.hdf5", "w") as file:
            group = file.create_group("env/cam0_video")
            group["frames"] = frames
            group["frames"].attrs["image_format"] = "RGB"
            file["policy/actions"] = np.zeros((30, 4))
            file.create_group("metadata").attrs["robot"] = "sawyer"
    return folder


def write_videos(folder: Path, num_bytes: int, num_frames: int = 100, side: int = 128) -> Path:
    """Videos of 100 frames of 128 x 128; all are copies of one, since encoding is slow."""
    import imageio.v3 as iio

    first = folder / "00000.mp4"
    with iio.imopen(first, "w", plugin="pyav") as file:
        file.init_video_stream("libx264", fps=25)
        for t in range(num_frames):
            frame = np.full((side, side, 3), t % 256, np.uint8)
            frame[:, t % side] = 255 - t % 256
            file.write_frame(frame)
    for index in range(1, max(2, num_bytes // (num_frames * side * side * 3))):
        shutil.copyfile(first, folder / f"{index:05}.mp4")
    return folder


def write_long_videos(folder: Path, num_bytes: int) -> Path:
    """Videos of 500 MB of frames of 256 x 256; shorter ones for a small source."""
    return write_videos(folder, num_bytes, min(500 * MEGABYTE, num_bytes // 2) // (256 * 256 * 3), 256)


def write_moving_mnist(folder: Path, num_bytes: int) -> Path:
    """mnist_test_seq.npy: (20, sequences, 64, 64), grey; decoded frames are RGB."""
    count = max(2, num_bytes // (20 * 64 * 64 * 3))
    sequences = noise((count, 64, 64))
    with (folder / "mnist_test_seq.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (20, *sequences.shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(20):
            file.write(sequences.data)
    return folder / "mnist_test_seq.npy"


LAYOUTS = {
    "npz": Layout("npz", write_npz),
    "npz-long": Layout("npz", write_long_npz),
    "videogpt-hdf5": Layout("videogpt-hdf5", write_videogpt),
    "robonet": Layout("robonet", write_robonet),
    "video": Layout("video", write_videos),
    "video-long": Layout("video", write_long_videos),
    "moving-mnist": Layout("moving-mnist", write_moving_mnist),
}


def read_status(pid: int) -> dict[str, float]:
    """Megabytes of the fields of /proc/PID/status; empty for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if line.endswith(" kB"))
    return {name: int(value.split()[0]) * 1024 / MEGABYTE for name, value in pairs}


def convert_and_watch(format: str, source: Path, out: Path) -> dict[str, float]:
    """Convert a source in a new process; returns peaks of its memory in megabytes, and seconds."""
    command = [sys.executable, "-m", "worldmodel", "data", "convert", str(source), str(out), "--from", format]
    begin, anonymous, resident = time.perf_counter(), 0.0, 0.0
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        while child.poll() is None:
            status = read_status(child.pid)
            anonymous = max(anonymous, status.get("RssAnon", 0.0))
            resident = max(resident, status.get("VmHWM", 0.0))
            time.sleep(SECONDS_PER_SAMPLE)
        if child.returncode:
            errors.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed: {errors.read().decode()[-2000:]}")
    return {"anonymous": anonymous, "resident": resident, "seconds": time.perf_counter() - begin}


def measure(name: str, megabytes: int, folder: Path | None = None) -> dict[str, Any]:
    """Write a source, convert it and delete both.

    Args:
        name: a key of `LAYOUTS`.
        megabytes: of decoded frames.
        folder: where temporary files are written; they take three times `megabytes`.

    Returns:
        A row: name, megabytes, peaks of the memory in megabytes, seconds.
    """
    peaks = []
    for size in (SMALL, megabytes):
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            sources = Path(temporary) / "source"
            sources.mkdir()
            source = LAYOUTS[name].write(sources, size * MEGABYTE)
            peaks.append(convert_and_watch(LAYOUTS[name].format, source, Path(temporary) / "out.h5"))
    growth = peaks[1]["anonymous"] - peaks[0]["anonymous"]
    figures = {key: round(value, 1) for key, value in {**peaks[1], "growth": growth}.items()}
    return {"layout": name, "megabytes": megabytes, **figures}


def line(row: Mapping[str, Any]) -> str:
    """A row in Markdown."""
    limit = "" if row["resident"] < LIMIT else f" (over {LIMIT})"
    peaks = f"{row['anonymous']:.0f} | {row['growth']:.0f} | {row['resident']:.0f}{limit}"
    return f"| {row['layout']} | {row['megabytes']} | {peaks} | {row['seconds']:.0f} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the layouts one after the other; the exit code is 1 if one needs more than 1 GB."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(LAYOUTS), choices=list(LAYOUTS), metavar="LAYOUT")
    parser.add_argument("--megabytes", type=int, default=1500, help="of decoded frames in each source")
    parser.add_argument("--folder", type=Path, help="where temporary files are written; three times --megabytes")
    parser.add_argument("--out", type=Path, help="file of the figures, JSON")
    options = parser.parse_args(arguments)
    print("| Layout | Frames, MB | Anonymous, MB | Growth, MB | Resident, MB | Seconds |\n|---|---|---|---|---|---|")
    rows = []
    for name in options.only:
        rows.append(measure(name, options.megabytes, options.folder))
        print(line(rows[-1]), flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    sys.exit(int(any(row["anonymous"] >= LIMIT for row in rows)))


if __name__ == "__main__":
    main()
