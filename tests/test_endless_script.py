"""benchmarks/endless.py: each memory method is conditioned on the frames it holds, and every figure is there."""

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

from worldmodel.bench.memory_methods import (
    METHODS,
    EndlessDreams,
    cut_clip,
    flush_cycle,
    nats_per_code,
    reading_spans,
    refill_frames,
)
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


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("window", [1, 2, 5])
def test_every_frame_is_predicted_once(method: str, window: int) -> None:
    for length in range(window + 1, 4 * window + 2):
        spans = reading_spans(method, window, length)
        assert [t for _, first, end in spans for t in range(first, end)] == list(range(length))
        assert all(begin <= first < end for begin, first, end in spans)
        if method != "ring":
            assert all(end - begin <= window + 1 for begin, _, end in spans)
    assert flush_cycle(window) + refill_frames(window) == window + 1


@pytest.mark.parametrize("window", [3, 4])
def test_each_method_predicts_from_the_frames_it_holds(window: int) -> None:
    prior, clip = make_prior(window=window), make_clip(batch=2, length=4 * window + 1)
    clip = replace(clip, frame_valid=torch.ones_like(clip.frame_valid))
    nats = {method: nats_per_code(prior, clip, method) for method in METHODS}
    num_cached = 0
    for t in range(4 * window + 1):
        # a cache that is dropped when it holds W + 1 frames: the number of frames before frame t in it
        num_cached = refill_frames(window) if num_cached == window + 1 else num_cached
        for method, before in (("recompute", min(t, window)), ("flush", num_cached)):
            alone = -prior.log_prob(cut_clip(clip, t - before, t + 1))[:, -1] / 6
            torch.testing.assert_close(nats[method][:, t], alone, atol=1e-5, rtol=1e-5)
        num_cached += 1
    torch.testing.assert_close(nats["ring"], -prior.log_prob(clip) / 6)
    assert not torch.allclose(nats["ring"][:, window + 2 :], nats["flush"][:, window + 2 :])


def test_dreams_are_the_same_until_frames_are_dropped() -> None:
    prior, clip = make_prior(window=3, status=StatusConfig()), make_clip(batch=3, length=2)
    clip, codes, num_cached = replace(clip, status=torch.zeros_like(clip.status)), {}, []
    for method in METHODS:
        dreams = EndlessDreams(prior, clip, method, seed=5)
        steps = []
        for t in range(9):
            steps.append(dreams.step(torch.full((3,), t % 3)))
            num_cached.append(dreams.num_cached)
        codes[method] = torch.stack(steps)
    assert num_cached[-9:] == [2, 3, 4, 2, 3, 4, 2, 3, 4]
    for method in ("recompute", "flush"):
        assert torch.equal(codes[method][:3], codes["ring"][:3])
        assert not torch.equal(codes[method], codes["ring"])


@pytest.mark.slow
def test_the_script_runs_on_a_tiny_world(endless: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    result = json.loads(out.read_text())
    window = result["window"]
    for method in METHODS:
        row, run = result["likelihood"][method], result["free run"][method]
        assert len(row["nats per code"]) == 4 * window + 1
        assert np.isfinite([row["cliff"], row["cliff standard error"], *row["nats per code"]]).all()
        difference = np.asarray(row["nats per code"]) - result["likelihood"]["recompute"]["nats per code"]
        assert row["less recompute"] == pytest.approx(difference[window + 1 :].mean(), abs=1e-6)
        assert row["no cliff"] == (row["less recompute"] <= endless.CLIFF)
        assert sum(run["frames"]) == 3 * 25
        assert all(len(run[name]) == 20 and None not in run[name] for name in endless.MEASURES)
    assert 0 < sum(result["free run"]["real"]["frames"]) <= 3 * 25
