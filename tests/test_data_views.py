"""Summaries and previews of a dataset, and the benchmark of the loader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from recordings import make_episode, make_file, make_header, names_in, write_part

from worldmodel.bench.bench_loader import bench_loader
from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.data import Dataset, contact_sheet, format_summary, gif, seal, summarize
from worldmodel.data.preview import choose_episodes
from worldmodel.data.summary import bars


def test_summary_counts(tmp_path: Path) -> None:
    path, episodes = make_file(tmp_path, num=12)
    summary = summarize(Dataset(path))
    assert json.loads(json.dumps(summary)) == summary
    assert summary["num_steps"] == sum(e.length for e in episodes)
    assert summary["splits"] == Dataset(path).split_counts
    assert summary["bytes_on_disk"] == path.stat().st_size
    assert summary["terminated"] == summary["truncated"] == 0.5
    assert summary["invalid_last_frames"] == pytest.approx(4 / 12)
    for policy in summary["policies"]:
        policy_episodes = [e for e in episodes if e.policy == policy["name"]]
        assert policy["episodes"] == len(policy_episodes) == sum(policy["return"]["histogram"]["counts"])
        assert policy["return"]["mean"] == pytest.approx(np.mean([e.return_ for e in policy_episodes]))
        assert policy["length"]["max"] == max(e.length for e in policy_episodes)
        actions = np.concatenate([e.actions for e in policy_episodes])
        assert policy["actions"] == [{"counts": np.bincount(actions, minlength=3).tolist()}]
    text = format_summary(summary)
    for word in (
        "Test-v0",
        "random",
        "ppo",
        "train",
        "return",
        "length",
        "█",
        "33.3% without a valid last frame",
    ):
        assert word in text


@pytest.mark.parametrize(
    "space", [spaces.MultiDiscrete((3, 2)), spaces.MultiBinary(4), spaces.Box((-1.0, None), (1.0, None))]
)
def test_summary_of_every_space(tmp_path: Path, space: Any) -> None:
    labels = [["a", "b", "c"], ["x", "y"]] if isinstance(space, spaces.MultiDiscrete) else ()
    path, _ = make_file(tmp_path, action_space=space, action_labels=labels)
    data = Dataset(path)
    summary = summarize(data)
    for policy in summary["policies"]:
        steps = int(data.lengths[data.policies == policy["name"]].sum())
        assert [sum(entry["counts"]) for entry in policy["actions"]] == [steps] * space.shape[0]
    assert len(format_summary(summary).splitlines()) > 10
    assert ("[1] x " in format_summary(summary)) == isinstance(space, spaces.MultiDiscrete)


def test_dead_time_is_the_share_of_repeated_frames(tmp_path: Path) -> None:
    header = make_header(num_episodes=1)
    frames = np.arange(5, dtype=np.uint8)[[0, 0, 1, 2, 2], None, None, None] * np.ones((4, 6, 3), np.uint8)
    episode = make_episode(header, 1, 4, frames=frames)
    path = seal([write_part(tmp_path / "p", header, [episode])], tmp_path / "a.h5")
    summary = summarize(Dataset(path))
    assert summary["dead_time"] == {"share": 0.5, "episodes_read": 1}
    assert "there is no" in summary["missing_splits"]
    assert summary["missing_splits"] in format_summary(summary)


def test_bars() -> None:
    assert bars([0, 1, 4, 8, 1000]) == " ▁▁▁█"
    assert bars([]) == ""
    assert bars([0, 0]) == "  "


def test_contact_sheet_and_gif(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path)
    data = Dataset(path)
    assert {str(p) for p in data.policies[choose_episodes(data, 2)]} == {"random", "ppo"}
    assert len(choose_episodes(data, 5)) == 5
    assert len(choose_episodes(data, 100)) == 12
    out = tmp_path / "out"
    sheet = Image.open(contact_sheet(data, out / "sheet.png", num_episodes=3, num_columns=4, num_last=2, scale=8))
    assert sheet.size == (max(6 * (48 + 2) + 16, 420), 3 * (32 + 2 + 28))
    got = np.asarray(sheet)[14 : 14 + 32, :48]  # the first cell is the first frame, enlarged
    first = data.frames(choose_episodes(data, 3)[0])[0]
    assert np.array_equal(got, first.repeat(8, 0).repeat(8, 1)) or (got[0, 0] == (220, 60, 60)).all()
    moving = Image.open(gif(data, out / "x.gif", episodes=[0, 4], scale=4))
    assert moving.n_frames == 6  # of the longer episode
    assert moving.size == (2 * 24 + 2, 16 + 14)
    assert moving.info["loop"] == 0
    contact_sheet(data, out / "sheet.png")
    gif(data, out / "x.gif", max_frames=3)
    assert names_in(out) == ["sheet.png", "x.gif"]
    for call, sentence in [
        (lambda: contact_sheet(data, out / "y.png", scale=0), "scale=0"),
        (lambda: contact_sheet(data, out / "y.png", num_columns=0), "num_columns=0"),
        (lambda: gif(data, out / "y.gif", episodes=[12]), "episode 12 does not exist"),
        (lambda: gif(data, out / "y.gif", episodes=[]), "episodes is empty"),
        (lambda: gif(data, out / "y.gif", fps=0), "fps=0"),
    ]:
        with pytest.raises(UserError, match=sentence):
            call()
    assert names_in(out) == ["sheet.png", "x.gif"]


def test_bench_loader_measures_every_reader(tmp_path: Path) -> None:
    report = bench_loader(num_episodes=10, steps=20, batch_size=8, seconds=0.02, rounds=2, folder=tmp_path)
    assert set(report["readers"]) == {
        "clip_sampler_ram",
        "clip_sampler_memmap",
        "h5py_contiguous",
        "h5py_gzip",
        "h5py_lzf",
    }
    assert all(reader["clips_per_second"] > 0 for reader in report["readers"].values())
    assert report["readers"]["h5py_gzip"]["bytes"] < report["file_bytes"]
    json.dumps(report)
    assert names_in(tmp_path) == []
