"""Metrics of two sets of clips: values against closed forms, and a contract that every row of the registry keeps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tiny_networks import TinyNetworks

from worldmodel.common.errors import UserError
from worldmodel.metrics import CLIP_METRICS, ClipMetric, evaluate_clips, register_clip_metric
from worldmodel.metrics.frechet import GaussianStatistics, frechet_distance
from worldmodel.metrics.frechet_clips import cell_colours, cell_motion

ROWS = [pytest.param(row, id=name) for name, row in CLIP_METRICS.items()]


def random_clips(num: int, seed: int, brightness: float = 0.5, size: int = 12) -> torch.Tensor:
    """Clips of random patches, (num, 3, size, size, 3) uint8."""
    rng = np.random.default_rng(seed)
    levels = rng.random((num, 3, 4, 4, 3)) * 2 * brightness * 255
    return torch.from_numpy(levels.astype(np.uint8)).repeat_interleave(size // 4, 2).repeat_interleave(size // 4, 3)


def batches(clips: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    return iter(clips.split(size))


# -- the Frechet distance ----------------------------------------------------------------------------------


def test_frechet_distance_of_gaussians_has_its_closed_form() -> None:
    def gaussian(mean: list[float], covariance: np.ndarray) -> GaussianStatistics:
        return GaussianStatistics(101, np.array(mean), covariance * 100)  # divisor N-1

    # axes that do not mix: squared differences of means and of standard deviations
    a, b = gaussian([1.0, 2.0, 0.0], np.diag([4.0, 9.0, 0.0])), gaussian([0.0, 4.0, 0.0], np.diag([1.0, 16.0, 4.0]))
    assert frechet_distance(a, b) == pytest.approx((1 + 4 + 0) + (1 + 1 + 4))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)
    # covariances that do not commute, of two features: tr sqrt(M) = sqrt(tr M + 2 sqrt(det M))
    first, second = np.array([[2.0, 0.9], [0.9, 1.0]]), np.array([[1.0, -0.6], [-0.6, 3.0]])
    product = first @ second
    cross = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    wanted = 5 + np.trace(first) + np.trace(second) - 2 * cross
    distance = frechet_distance(gaussian([0.0, 1.0], first), gaussian([2.0, 0.0], second))
    assert distance == pytest.approx(wanted)
    assert distance == pytest.approx(frechet_distance(gaussian([2.0, 0.0], second), gaussian([0.0, 1.0], first)))
    assert np.isnan(frechet_distance(a, GaussianStatistics.empty(3)))


def test_statistics_do_not_depend_on_the_batches() -> None:
    vectors = np.random.default_rng(0).normal(5, 2, (37, 4)) + 1e3
    whole, parts = GaussianStatistics.empty(4), GaussianStatistics.empty(4)
    whole.update(vectors)
    for part in np.split(vectors, [0, 1, 9, 30]):
        parts.update(part)
    for statistics in (whole, parts):
        assert statistics.count == 37
        np.testing.assert_allclose(statistics.mean, vectors.mean(0))
        np.testing.assert_allclose(statistics.covariance, np.cov(vectors.T), rtol=1e-9)


def test_frechet_pixels_of_plain_colours_has_its_closed_form() -> None:
    def plain(levels: list[int]) -> torch.Tensor:
        return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None, None].expand(-1, 2, 8, 8, 3)

    real, generated = [10, 20, 60, 90], [100, 120, 150, 230]
    found = evaluate_clips([plain(real)], [plain(generated)], ["frechet_pixels", "frechet_motion"])
    values = {name: metric["values"][0] for name, metric in found["sections"]["distributions of clips"].items()}
    # every one of the 48 features is the level: all vectors lie on one line
    difference, stds = np.mean(generated) - np.mean(real), [np.std(x, ddof=1) for x in (generated, real)]
    wanted = 48 * (difference**2 + (stds[0] - stds[1]) ** 2) / 255**2
    assert values["frechet_pixels"]["value"]["mean"] == pytest.approx(wanted)
    halves = [real[::2], real[1::2]]
    means, stds = [np.mean(x) for x in halves], [np.std(x, ddof=1) for x in halves]
    floor = 48 * ((means[0] - means[1]) ** 2 + (stds[0] - stds[1]) ** 2) / 255**2
    assert values["frechet_pixels"]["baselines"]["half of the real clips"]["mean"] == pytest.approx(floor)
    assert values["frechet_motion"]["value"]["mean"] == pytest.approx(0, abs=1e-12)


def test_the_features_are_means_of_cells() -> None:
    clips = random_clips(2, 0)
    blocks = clips.double().unflatten(3, (4, 3)).unflatten(2, (4, 3))  # (2, 3, 4, 3, 4, 3, 3)
    np.testing.assert_allclose(cell_colours(clips), blocks.mean((1, 3, 5)).movedim(-1, 1).flatten(1) / 255, rtol=1e-5)
    change = blocks.diff(dim=1).abs().mean((1, 3, 5, 6))
    np.testing.assert_allclose(cell_motion(clips), change.flatten(1) / 255, rtol=1e-5)


def test_a_perfect_generator_is_near_the_noise_floor_and_a_wrong_one_is_not() -> None:
    real, same, dark = random_clips(200, 0), random_clips(200, 1), random_clips(200, 2, brightness=0.3)
    for name in ("frechet_pixels", "frechet_motion"):
        (values,) = [m[name]["values"][0] for m in evaluate_clips([real], [same], [name])["sections"].values()]
        floor = values["baselines"]["half of the real clips"]["mean"]
        assert 0.25 * floor < values["value"]["mean"] < floor
        ((wrong,),) = (m[name]["values"] for m in evaluate_clips([real], [dark], [name])["sections"].values())
        assert wrong["value"]["mean"] > 2 * floor


# -- every row ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS)
def test_every_metric_keeps_the_contract(row: ClipMetric) -> None:
    real, generated = random_clips(20, 0), random_clips(20, 1)
    networks = TinyNetworks()
    whole, parts = row.accumulator(networks), row.accumulator(networks)
    assert whole.compute() == []
    whole.update(real, True)
    assert whole.compute() == [], "one set alone has no value"
    whole.update(generated, False)
    (value,) = whole.compute()
    assert np.isfinite(value.value.mean)
    for begin, end in ((0, 3), (3, 4), (4, 20)):  # stopped and continued after each batch
        parts.update(real[begin:end], True)
        continued = row.accumulator(networks)
        continued.load_state({name: array.copy() for name, array in parts.state().items()})
        continued.update(generated[begin:end], False)
        parts = row.accumulator(networks)
        parts.load_state(continued.state())
    (other,) = parts.compute()
    assert other.value.mean == pytest.approx(value.value.mean, rel=1e-6)
    equal = row.accumulator(networks)
    equal.update(real, True)
    equal.update(real, False)
    (best,) = equal.compute()
    sign = {"higher": 1, "lower": -1}[row.better]
    assert sign * best.value.mean > sign * value.value.mean


def test_all_metrics_are_evaluated_batch_by_batch() -> None:
    real, generated = random_clips(10, 0), random_clips(14, 1)
    found = evaluate_clips(batches(real, 4), batches(generated, 3), paired=True)
    assert found["clips"] == {"real": 10, "generated": 14}
    sections = found["sections"]
    defaults = {name for name, row in CLIP_METRICS.items() if row.default}
    assert set(sections["pairs of clips"]) | set(sections["distributions of clips"]) == defaults
    for name, metric in evaluate_clips([real], [generated], paired=True)["sections"]["pairs of clips"].items():
        assert metric["values"] == sections["pairs of clips"][name]["values"]
    assert "pairs of clips" not in evaluate_clips([real], [generated])["sections"]
    small = evaluate_clips([real[:, :, :8, :8]], [generated[:, :, :8, :8]], paired=True)["sections"]["pairs of clips"]
    assert small["ssim"]["values"] == [], "frames are smaller than its window"


def test_wrong_requests_are_refused() -> None:
    real = random_clips(4, 0)
    for arguments, message in (
        ((["fvx"],), "unknown metric 'fvx'"),
        ((["psnr"],), "these sets are not paired"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate_clips([real], [real], *arguments)
    with pytest.raises(UserError, match="cannot be compared"):
        evaluate_clips([real], [real[:, :2]])
    with pytest.raises(UserError, match="T >= 2"):
        evaluate_clips([real[:, :1]], [real[:, :1]])
    with pytest.raises(UserError, match="there is a metric 'psnr' already"):
        register_clip_metric(CLIP_METRICS["psnr"])
