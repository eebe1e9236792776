"""Part files: crash safety, damage, locks."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from recordings import make_episode, make_header, names_in, write_part

from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec
from worldmodel.data import PartWriter, PolicyRecord, read_part, read_part_header, seal
from worldmodel.data import parts as data_parts
from worldmodel.data.verification import verify


def test_truncation_at_any_byte_leaves_a_readable_prefix(tmp_path: Path) -> None:
    header = make_header(pixels=PixelSpec((1, 2)), variables=("a",), policies=(PolicyRecord("r"),))
    episodes = [make_episode(header, i, 1 + i % 2) for i in range(3)]
    ends = []
    with PartWriter(tmp_path / "complete", header) as writer:
        ends.append((tmp_path / "complete").stat().st_size)
        for episode in episodes:
            writer.append(episode)
            ends.append((tmp_path / "complete").stat().st_size)
    data = (tmp_path / "complete").read_bytes()
    truncated = tmp_path / "truncated"
    for size in range(len(data)):
        truncated.write_bytes(data[:size])
        num_complete = sum(end <= size for end in ends) - 1
        if num_complete < 0:
            with pytest.raises(UserError, match="ends inside its header"):
                read_part_header(truncated)
        else:
            assert list(read_part(truncated)) == episodes[:num_complete]
            if size not in ends:
                with pytest.raises(UserError, match=f"record {num_complete} of .* is incomplete"):
                    verify(truncated)
        if size % 29 and size not in ends:
            continue
        with PartWriter(truncated, header) as writer:  # continues after the last complete record
            assert writer.indices == set(range(max(num_complete, 0)))
            for episode in episodes[max(num_complete, 0) :]:
                writer.append(episode)
        assert truncated.read_bytes() == data


def test_verify_finds_every_flipped_byte_of_a_part(tmp_path: Path) -> None:
    header = make_header(pixels=PixelSpec((1, 2)), variables=(), policies=(PolicyRecord("r"),))
    episodes = [make_episode(header, i, 1) for i in range(3)]
    path = write_part(tmp_path / "p", header, episodes)
    data = bytearray(path.read_bytes())
    verify(path)
    for at in range(len(data)):
        data[at] ^= 0x10
        path.write_bytes(data)
        data[at] ^= 0x10
        with pytest.raises(UserError):
            verify(path)


def test_damage_in_the_middle_is_an_error_and_at_the_end_is_removed(tmp_path: Path) -> None:
    header = make_header()
    path = write_part(tmp_path / "p", header, [make_episode(header, i) for i in (5, 6, 7)])
    data = path.read_bytes()
    starts = [m.start() for m in re.finditer(b"\x89WMEPIS", data)]
    for offset in (1, 12, 40, 300):  # magic bytes, length, meta, arrays
        damaged = bytearray(data)
        damaged[starts[1] + offset] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"record 1 .*'.*p'"):
            list(read_part(path))
        with pytest.raises(UserError, match="record 1 "):
            PartWriter(path, header)
        damaged = bytearray(data)
        damaged[starts[2] + offset] ^= 1
        path.write_bytes(damaged)
        with PartWriter(path, header) as writer:
            assert writer.indices == {5, 6}
        assert path.read_bytes() == data[: starts[2]]  # removed from the file, not only skipped


def test_a_part_of_another_run_is_refused(tmp_path: Path) -> None:
    header = make_header()
    with PartWriter(tmp_path / "p", header) as writer:
        with pytest.raises(UserError, match="being written by another process"):
            PartWriter(tmp_path / "p", header)
        writer.append(make_episode(header, 1))
        with pytest.raises(UserError, match="already has episode 1"):
            writer.append(make_episode(header, 1))
    with pytest.raises(UserError, match="belongs to another run: seed is 7 in the first and 8"):
        PartWriter(tmp_path / "p", make_header(seed=8))
    (tmp_path / "q").write_bytes(b"hello, this is not a part")
    with pytest.raises(UserError, match="is not a part file"):
        PartWriter(tmp_path / "q", header)
    with pytest.raises(UserError, match="cannot open"):
        list(read_part(tmp_path / "none"))


@pytest.mark.parametrize("fail_after", [0, 1, 4])
def test_a_full_disk_leaves_the_part_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_after: int
) -> None:
    header = make_header()
    writer = PartWriter(tmp_path / "p", header)
    writer.append(make_episode(header, 0))
    before = (tmp_path / "p").read_bytes()
    calls = iter(range(100))
    real = os.write

    def write(handle: int, piece: Any) -> int:
        if next(calls) >= fail_after:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, piece[: max(len(piece) // 2, 1)])

    monkeypatch.setattr(data_parts.os, "write", write)
    with pytest.raises(UserError, match=r"episode 1 could not be written .* No space left"):
        writer.append(make_episode(header, 1))
    assert (tmp_path / "p").read_bytes() == before
    monkeypatch.undo()
    writer.append(make_episode(header, 1))
    writer.close()
    assert [e.index for e in read_part(tmp_path / "p")] == [0, 1]


# ---------------------------------------------------------------- locks


WRITER_PROCESS = """
import sys
from recordings import make_header, make_episode
from worldmodel.data import PartWriter

writer = PartWriter(sys.argv[1], make_header())
writer.append(make_episode(writer.header, 0))
print("writing", flush=True)
sys.stdin.read()
"""


def test_a_part_has_one_writer_and_a_killed_writer_leaves_no_lock(tmp_path: Path) -> None:
    path, header = tmp_path / "p", make_header()
    (tmp_path / "link").symlink_to(path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER_PROCESS, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    before = path.read_bytes()
    for name in (path, tmp_path / "link", tmp_path / "." / "p"):
        with pytest.raises(UserError, match=r"is being written by another process. Wait for it to end, or end it"):
            PartWriter(name, header)
    assert path.read_bytes() == before
    assert [e.index for e in read_part(path)] == [0]  # readers need no lock
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    for _ in range(2):  # a part can be opened again right after it was closed
        with PartWriter(path, header) as writer:
            assert writer.indices == {0}


def test_a_writer_may_be_closed_by_another_thread(tmp_path: Path) -> None:
    from threading import Thread

    writer = PartWriter(tmp_path / "p", make_header())
    thread = Thread(target=writer.close)
    thread.start()
    thread.join()
    with PartWriter(tmp_path / "p", make_header()):
        pass


def test_readers_create_no_lock_and_seal_removes_it_with_the_part(tmp_path: Path) -> None:
    header = make_header()
    path = write_part(tmp_path / "part-000.bin", header, [make_episode(header, 0)])
    assert names_in(tmp_path) == ["part-000.bin", "part-000.bin.lock"]
    assert list(tmp_path.glob("part-*.bin")) == [path]  # the pattern of `worldmodel data seal`
    (tmp_path / "part-000.bin.lock").unlink()
    list(read_part(path))
    verify(path)
    seal([path], tmp_path / "a.h5")
    assert names_in(tmp_path) == ["a.h5", "part-000.bin"]
    with PartWriter(path, header):
        pass
    seal([path], tmp_path / "a.h5", remove_parts=True)
    assert names_in(tmp_path) == ["a.h5"]
