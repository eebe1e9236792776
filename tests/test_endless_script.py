"""benchmarks/endless.py, rehearsed: the ways remember what they say they do, and every figure is there."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from test_world_flat import make_prior
from test_world_prior import make_clip

from worldmodel.collect import record
from worldmodel.prior import StatusConfig
from worldmodel.train.presets import PRESETS
from worldmodel.train.trainers import train_world

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "endless.py"


@pytest.fixture(scope="module")
def endless() -> ModuleType:
    spec = importlib.util.spec_from_file_location("endless", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("window", [3, 4])
def test_each_way_predicts_from_what_it_holds(endless: ModuleType, window: int) -> None:
    prior, clip = make_prior(window=window), make_clip(batch=2, length=4 * window + 1)
    clip = replace(clip, frame_valid=torch.ones_like(clip.frame_valid))
    said = {way: endless.nats(prior, clip, way) for way in endless.WAYS}
    held = 0
    for t in range(4 * window + 1):
        # of a cache that is dropped when W + 1 frames are in it: so many are before frame t
        held = endless.half(window) if held == window + 1 else held
        for way, before in (("recompute", min(t, window)), ("flush", held)):
            alone = -prior.log_prob(endless.part(clip, t - before, t + 1))[:, -1] / 6
            torch.testing.assert_close(said[way][:, t], alone, atol=1e-5, rtol=1e-5)
        held += 1
    torch.testing.assert_close(said["ring"], -prior.log_prob(clip) / 6)
    assert not torch.allclose(said["ring"][:, window + 2 :], said["flush"][:, window + 2 :])


def test_dreams_are_the_same_until_something_is_dropped(endless: ModuleType) -> None:
    prior, clip = make_prior(window=3, status=StatusConfig()), make_clip(batch=3, length=2)
    clip, drawn, held = replace(clip, status=torch.zeros_like(clip.status)), {}, []
    for way in endless.WAYS:
        dreams = endless.Dreams(prior, clip, way, seed=5)
        steps = []
        for t in range(9):
            steps.append(dreams.step(torch.full((3,), t % 3)))
            held.append(dreams.held)
        drawn[way] = torch.stack(steps)
    assert held[-9:] == [2, 3, 4, 2, 3, 4, 2, 3, 4]
    for way in ("recompute", "flush"):
        assert torch.equal(drawn[way][:3], drawn["ring"][:3])
        assert not torch.equal(drawn[way], drawn["ring"])


@pytest.mark.slow
def test_it_runs_on_a_tiny_world(endless: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    data = record("toy", "sticky", tmp_path / "toy.h5", episodes=40, size=(16, 16), progress=False)
    config = PRESETS["tiny-flat"]
    few = {name: replace(getattr(config, name), num_steps=4) for name in ("train_tokenizer", "train_prior")}
    train_world(data, tmp_path / "world", replace(config, **few))
    out = tmp_path / "out" / "endless.json"
    files = [str(tmp_path / "world"), "--data", str(tmp_path / "toy.h5"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["endless.py", *files, "--rows", "3", "--horizon", "25", "--clips", "8"])
    endless.main()
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(out.read_text())
    window = found["window"]
    for way in endless.WAYS:
        row, run = found["likelihood"][way], found["free run"][way]
        assert len(row["nats a code"]) == 4 * window + 1
        assert np.isfinite([row["cliff"], row["cliff standard error"], *row["nats a code"]]).all()
        beside = np.asarray(row["nats a code"]) - found["likelihood"]["recompute"]["nats a code"]
        assert row["less recompute"] == pytest.approx(beside[window + 1 :].mean(), abs=1e-6)
        assert row["no cliff"] == (row["less recompute"] <= endless.CLIFF)
        assert sum(run["frames"]) == 3 * 25
        assert all(len(run[name]) == 20 and None not in run[name] for name in endless.MEASURES)
    assert 0 < sum(found["free run"]["real"]["frames"]) <= 3 * 25
