"""LPIPS and FVD of dreams in `eval world`: values by hand with tiny networks, and weights that are absent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from square import record_square
from tiny_networks import TinyLpips, TinyNetworks, mean_colours
from untrained import make_world

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.data import Dataset
from worldmodel.metrics import METRICS, EvaluationSettings, clip_protocols, evaluate, evaluation, learned_distances
from worldmodel.metrics.clip_dreams import PairedDreams, paired_dreams
from worldmodel.metrics.dream_rollouts import Dreams
from worldmodel.metrics.evaluation_run import EvaluationRun
from worldmodel.metrics.frechet import frechet_of_features
from worldmodel.prior import StatusConfig

SETTINGS = EvaluationSettings(clips=8, ahead=3, metrics=("lpips", "fvd"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return record_square(tmp_path_factory.mktemp("square") / "square.h5", 60)


@pytest.fixture
def run(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvaluationRun:
    """An evaluation of an untrained world, with networks that take no time and no download."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(clip_protocols, "ClipNetworks", TinyNetworks)
    world = make_world(spaces.Discrete(2), status=StatusConfig("place", (0.5, 1.5, 2.5)))
    return EvaluationRun(world, data, {}, SETTINGS)


def test_the_distances_are_those_of_the_dreamed_clips(run: EvaluationRun) -> None:
    frames, dreams = run.clips.frames, run.cached(paired_dreams).recorded.frames
    window = run.world.prior.window
    real, first = frames[:, window - 1 :], frames[:, window - 1 : window]
    (fvd,) = METRICS["fvd"].function(run)
    expected = frechet_of_features(mean_colours(real), mean_colours(torch.cat([first, dreams], 1)))
    assert fvd.value.mean == pytest.approx(expected) != 0
    assert fvd.baselines["half of the real clips"].mean == pytest.approx(
        frechet_of_features(mean_colours(real[::2]), mean_colours(real[1::2]))
    )
    frozen = mean_colours(first.expand_as(real))
    assert fvd.baselines["repeat last"].mean == pytest.approx(frechet_of_features(mean_colours(real), frozen))
    values = METRICS["lpips"].function(run)
    assert [value.label for value in values] == ["1 ahead", "2 ahead", "3 ahead"]
    for i, value in enumerate(values):
        distances = TinyLpips().frames(real[:, i + 1], dreams[:, i]).numpy()
        assert value.value.mean == pytest.approx(distances.mean())
        assert set(value.baselines) == {"other actions", "repeat last", "reconstruction"}
    assert values[0].value.low is not None


def test_dreams_that_equal_the_recording_have_no_distance(run: EvaluationRun, monkeypatch: pytest.MonkeyPatch) -> None:
    future = run.clips.frames[:, run.world.prior.window :]
    perfect = Dreams(future, torch.zeros(future.shape[:2], dtype=torch.bool))
    monkeypatch.setattr(learned_distances, "paired_dreams", lambda run: PairedDreams(perfect, perfect))
    (fvd,) = METRICS["fvd"].function(run)
    assert fvd.value.mean == pytest.approx(0, abs=1e-6)
    assert fvd.baselines["reconstruction"].mean > 1
    assert [value.value.mean for value in METRICS["lpips_vgg"].function(run)] == [0, 0, 0]
    assert all(value.baselines["repeat last"].mean > 0 for value in METRICS["lpips"].function(run))


def test_weights_are_looked_for_before_anything_is_dreamed(
    run: EvaluationRun, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[str] = []
    monkeypatch.setattr(evaluation, "find_asset", wanted.append)
    result = evaluate(run.world, data, {}, SETTINGS)
    assert wanted == ["i3d-kinetics-400", "lpips-alexnet"]
    assert list(result["sections"]["prediction"]) == ["lpips", "fvd"]
    assert any("FVD: 8 dreams" in note and "biased upwards" in note for note in result["notes"])

    def absent(name: str) -> Path:
        raise UserError(f"asset {name!r} is not in the cache")

    monkeypatch.setattr(evaluation, "find_asset", absent)
    monkeypatch.setattr(evaluation, "EvaluationRun", lambda *_: pytest.fail("begins without the weights"))
    with pytest.raises(UserError, match="'i3d-kinetics-400' is not in the cache"):
        evaluate(run.world, data, {}, replace(SETTINGS, metrics=("fvd",)))


def test_frames_that_are_too_small_have_no_lpips(run: EvaluationRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TinyLpips().network.__class__, "MIN_SIZE", 17)
    assert METRICS["lpips"].function(run) == []
    assert np.isfinite(METRICS["fvd"].function(run)[0].value.mean)
