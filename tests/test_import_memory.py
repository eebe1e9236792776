"""The memory of `worldmodel data convert` does not grow with the source."""

from __future__ import annotations

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
NAMES = ("npz", "videogpt-hdf5", "robonet", "video", "moving-mnist")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("name", NAMES)
def test_anonymous_memory_does_not_grow_with_the_source(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "video":
        pytest.importorskip("av")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from import_memory import measure

    row = measure(name, 300, tmp_path)
    assert row["growth"] < 100, row  # megabytes; a source that is read as a whole takes 300
    assert row["resident"] < 600, row


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_one_long_episode_at_a_time_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from import_memory import measure

    row = measure("npz-long", 750, tmp_path)  # three episodes of 250 MB
    assert row["growth"] < 400, row
