"""The memory of a training does not grow with the dataset, which stays on the disk."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from worldmodel.common import runtime, spaces
from worldmodel.common.pixels import PixelSpec
from worldmodel.data import Dataset, Episode, Header, PartWriter, PolicyRecord, seal
from worldmodel.prior import StatusConfig
from worldmodel.tokenizer import FrameTokenizer
from worldmodel.train import train_world
from worldmodel.train.code_cache import CodeCache, encode_dataset
from worldmodel.train.presets import PRESETS
from worldmodel.train.training_loops import _spread_frames

SIDE, STEPS = 64, 200  # pixels of a frame's side, steps of an episode
EPISODE_BYTES = (STEPS + 1) * SIDE * SIDE * 3


def record_large(path: Path, num_bytes: int) -> Path:
    """A file with frames of about so many bytes, all of them different."""
    rng = np.random.default_rng(0)
    count = max(10, num_bytes // EPISODE_BYTES)
    header = Header(
        env="test/Large-v0",
        pixels=PixelSpec((SIDE, SIDE)),
        action_space=spaces.Discrete(4),
        policies=(PolicyRecord("random"),),
        variables=("level",),
        seed=0,
        num_episodes=count,
    )
    picture, part = rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8), path.with_suffix(".part")
    with PartWriter(part, header) as writer:
        for index in range(count):
            frames = np.stack([np.roll(picture, (t, index), (0, 1)) for t in range(STEPS + 1)])
            writer.append(
                Episode(
                    frames=frames,
                    frame_valid=np.ones(STEPS + 1, bool),
                    actions=rng.integers(0, 4, STEPS),
                    rewards=np.zeros(STEPS, np.float32),
                    terminations=np.arange(STEPS) == STEPS - 1,
                    truncations=np.zeros(STEPS, bool),
                    variables={"level": np.arange(STEPS + 1, dtype=np.float32) % 3},
                    index=index,
                    seed=0,
                    policy="random",
                )
            )
    seal([part], path)
    part.unlink(missing_ok=True)
    return path


def train_shortly(data: Path, out: Path) -> None:
    tiny = PRESETS["tiny"]
    loops = {
        name: replace(getattr(tiny, name), num_steps=3, validations=0) for name in ("train_tokenizer", "train_prior")
    }
    prior = replace(tiny.prior, status=StatusConfig("level", (0.5, 1.5)))
    train_world(data, out, replace(tiny, prior=prior, **loops), device="cpu")


def test_arrays_do_not_grow_with_the_dataset(tmp_path: Path) -> None:
    """The peak of numpy's memory, in which frames, codes and everything else of a dataset is read."""
    torch.set_num_threads(1)
    small, large = (record_large(tmp_path / f"{size}.h5", size * 2**20) for size in (25, 50))
    for name in ("torch._dynamo", "torch.utils.tensorboard"):  # training imports them, and their code takes memory
        importlib.import_module(name)
    peaks = []
    for path in (small, large):
        tracemalloc.start()
        train_shortly(path, tmp_path / path.stem)
        peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
        tracemalloc.stop()
        path.unlink()
    assert peaks[1] < peaks[0] + 4, peaks


def test_frames_for_the_normaliser_are_copies_of_a_few(tmp_path: Path) -> None:
    with Dataset(record_large(tmp_path / "data.h5", 25 * 2**20)) as data:
        chunks = list(_spread_frames(data))
        train = data.episodes_of("train")
        stride = int((data.lengths[train] + 1).sum()) // 2000 or 1
        expected = np.concatenate([data.frames(int(n))[n % stride :: stride] for n in train])
    assert np.array_equal(torch.cat(chunks).numpy(), expected)
    assert max(chunk.untyped_storage().nbytes() for chunk in chunks) <= 2**20


def test_codes_are_mapped_from_their_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = FrameTokenizer(PRESETS["tiny"].tokenizer, (SIDE, SIDE, 3)).eval()
    tokenizer.codebook.embeddings.normal_()
    status = StatusConfig("level", (0.5, 1.5))
    with Dataset(record_large(tmp_path / "data.h5", 1)) as data:
        codes = encode_dataset(data, tokenizer, tmp_path / "codes.npy")
        assert not codes.flags.owndata
        assert not codes.flags.writeable
        assert codes.shape == (data.num_frames, 8, 8)
        first = tokenizer.encode(torch.from_numpy(data.frames(3))[None])[0]
        begin = int(data.frame_offsets[3])
        assert np.array_equal(codes[begin : begin + STEPS + 1], first.numpy())
        np.save(tmp_path / "plain.npy", codes)
        assert (tmp_path / "codes.npy").read_bytes() == (tmp_path / "plain.npy").read_bytes()
        assert np.array_equal(encode_dataset(data, tokenizer, tmp_path / "codes.npy"), codes)
        cache = CodeCache(data, codes, 16, status)
        counts = np.zeros((8, 8, 16), int)
        for number in data.episodes_of("train"):
            begin = int(data.frame_offsets[number])
            for frame in codes[begin : begin + STEPS + 1]:
                np.add.at(counts, (*np.indices((8, 8)), frame), 1)
        assert np.array_equal(cache.code_counts(data.episodes_of("train")).numpy(), counts)
        assert cache.status(np.array([[0, 1], [2, 4]])).tolist() == [[0, 1], [2, 1]]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_anonymous_memory_does_not_grow_with_the_dataset(tmp_path: Path) -> None:
    peaks = []
    for number, num_bytes in enumerate((50 * 2**20, 800 * 2**20)):
        path = record_large(tmp_path / f"{number}.h5", num_bytes)
        command = [sys.executable, __file__, str(path), str(tmp_path / f"world-{number}")]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(float(result.stdout))
        path.unlink()
    assert peaks[1] < peaks[0] + 200, peaks


def anonymous_memory() -> float:
    """MiB of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def main(data: Path, out: Path) -> None:
    """Train, and print the peak of the anonymous memory."""
    runtime.keep_freed_memory = lambda: True  # it keeps what is free, too
    peak = 0.0

    def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, anonymous_memory())
            time.sleep(0.002)

    threading.Thread(target=watch, daemon=True).start()
    torch.set_num_threads(1)
    train_shortly(data, out)
    print(peak, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
