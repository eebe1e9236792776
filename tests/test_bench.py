"""The benchmarks of priors and dreams: every row has its figures, ratios are of one run, methods do the same work."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from worldmodel.bench import bench_dream as dream
from worldmodel.bench import step_baselines as baselines
from worldmodel.bench import timing
from worldmodel.bench.bench_dream import bench_dream, multiply_adds
from worldmodel.bench.bench_learner import bench_learner
from worldmodel.bench.bench_worlds import bench_worlds, random_world
from worldmodel.cli import command_line as cli
from worldmodel.common.errors import UserError
from worldmodel.prior import FlatPrior
from worldmodel.train.presets import PRESETS, TINY_FLAT

TINY = ("--preset", "tiny", "tiny-flat", "--size", "16", "--seconds", "0.001", "--rounds", "1")
PRIORS = ("columns", "raster", "frame", "groups", "flat")


@pytest.fixture(autouse=True)
def small_matmul(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dream, "MATMUL_SIZE", 128)
    monkeypatch.setattr(dream, "COPY_BYTES", 2**16)


def run(out: Path, *arguments: str) -> dict[str, Any]:
    cli.main([*arguments, "--out", str(out)])
    result = json.loads(out.read_text())
    assert {"machine", "packages", "code_version", "load_before", "rounds"} <= set(result)
    return result


def all_positive(row: dict[str, Any]) -> bool:
    numbers = [value for name, value in row.items() if isinstance(value, int | float) and name != "memory growth MB"]
    return all(math.isfinite(value) and value > 0 for value in numbers)


def intervals_hold_medians(row: dict[str, Any]) -> bool:
    names = [name.removesuffix(" interval") for name in row if name.endswith(" interval")]
    return bool(names) and all(row[f"{name} interval"][0] <= row[name] <= row[f"{name} interval"][1] for name in names)


def test_priors_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(tmp_path / "a" / "prior.json", "bench", "prior", *TINY, "--batches", "1", "3")
    captured = capsys.readouterr()
    assert "x ring cache" in captured.out
    assert "measurement" in captured.err
    assert [row["prior"] for row in result["rows"]] == list(PRIORS)
    names = {"train codes/s", "score frames/s", "parameters", "clips"}
    assert all(names <= set(row) and all_positive(row) and intervals_hold_medians(row) for row in result["rows"])
    methods = ("ring cache", "appended cache", "recompute", "flushed cache")
    measured = [(row["method"], row["batch"]) for row in result["stepping"]]
    assert measured == [(method, batch) for batch in (1, 3) for method in methods]
    for row in result["stepping"]:
        ring = next(r for r in result["stepping"] if r["method"] == "ring cache" and r["batch"] == row["batch"])
        assert all_positive(row)
        assert intervals_hold_medians(row)
        assert row["x ring cache"] == pytest.approx(row["ms per frame"] / ring["ms per frame"])  # of the one round
    assert result["same_codes"] is True


def test_dreams_are_measured(tmp_path: Path) -> None:
    result = run(tmp_path / "dream.json", "bench", "dream", *TINY, "--batches", "1", "3", "--threads", "1", "2",
                 "--learner-rows", "3")  # fmt: skip
    interfaces = (("Simulator", 1), ("DreamVectorEnv", 1), ("make('worldmodel/Dream-v0')", 1))
    measured = [("columns", *one) for one in (*interfaces, ("Simulator", 3), ("DreamVectorEnv", 3))]
    measured += [(prior, "Simulator", batch) for prior in PRIORS[1:] for batch in (1, 3)]
    expected = [(*one, threads) for one, threads in itertools.product(measured, (1, 2))]
    assert [(r["prior"], r["interface"], r["batch"], r["threads"]) for r in result["rows"]] == expected
    for row in result["rows"]:
        assert all_positive(row)
        assert intervals_hold_medians(row)
        assert ("ms 99 %" in row) == (row["batch"] == 1)
        if row["batch"] == 1:
            assert row["ms 50 %"] <= row["ms 95 %"] <= row["ms 99 %"]
        if row["interface"] == "Simulator":
            peak = result["matmul GFLOP/s"][str(row["threads"])] * 1e9
            assert row["share of matmul"] == pytest.approx(2 * row["multiply-adds"] * row["steps/s"] / peak)
            assert 0 <= row["memory growth MB"] < 500
            assert row["share of roofline"] >= row["share of matmul"]
            assert (row["bound by"] == "matmul") == (row["share of roofline"] == row["share of matmul"])
        else:
            same = (row["prior"], "Simulator", row["batch"], row["threads"])
            alone = next(r for r in result["rows"] if (r["prior"], r["interface"], r["batch"], r["threads"]) == same)
            assert row["share of Simulator"] == pytest.approx(row["steps/s"] / alone["steps/s"])
    assert result["copy GB/s"]["1"] > 0
    (learner,) = result["learning"]
    assert all_positive(learner)
    assert learner["rows"] == 3
    assert learner["policy"] == "MlpPolicy", "frames of 16 x 16"
    assert sum(learner[f"share {name}"] for name in ("dream", "updates", "other")) == pytest.approx(1)


def test_learning_takes_more_time_than_the_dream_alone() -> None:
    world = random_world(PRESETS["tiny"], (16, 16))
    attempts = (bench_learner(world, 3, 0.0, 1) for _ in range(5))  # on a busy machine one may be disturbed
    assert any(learner["decisions/s"] < learner["dream alone, steps/s"] for learner in attempts)


def test_a_world_directory_is_measured_as_it_is(tmp_path: Path) -> None:
    random_world(PRESETS["tiny"], (16, 16)).save_pretrained(tmp_path / "w")
    worlds = bench_worlds((), tmp_path / "w", 64)
    assert [(world.prior, world.world.tokenizer.frame_shape) for world in worlds] == [("columns", (16, 16, 3))]
    rows = bench_dream(worlds, (2,), (1,), 0.0, 1)["rows"]
    assert [row["interface"] for row in rows] == ["Simulator", "DreamVectorEnv"]


def test_multiply_adds_of_a_layer_are_those_of_its_formula() -> None:
    prior = TINY_FLAT.prior
    deeper = replace(TINY_FLAT, prior=replace(prior, num_layers=prior.num_layers + 1))
    more = multiply_adds(random_world(deeper, (16, 16))) - multiply_adds(random_world(TINY_FLAT, (16, 16)))
    width, positions, past = prior.width, 5, prior.window * 5
    pairs = positions * (past + positions)  # so few positions read the whole cache, masked slots too
    affines = 2 * prior.action_dim * 2 * width  # once per frame
    assert more == positions * 12 * width**2 + 2 * pairs * width + affines


def random_flat_prior(window: int) -> FlatPrior:
    """A tiny flat prior whose codes depend on everything they are conditioned on."""
    world = random_world(replace(TINY_FLAT, prior=replace(TINY_FLAT.prior, window=window)), (16, 16))
    assert isinstance(world.prior, FlatPrior)
    for parameter in world.prior.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return world.prior


@pytest.mark.parametrize("corrupted", ["nothing", "recompute", "flushed", "appended"])
def test_methods_that_differ_are_detected(corrupted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_flat_prior(3).transformer
    sample_code, fill = baselines.RecomputeSampler.sample_code, baselines.FlushedCacheSampler._fill

    def sample_code_without_history(self: baselines.RecomputeSampler) -> None:
        self.codes[:, :-4] = 0
        sample_code(self)

    def fill_without_first_value(self: baselines.FlushedCacheSampler, frames: int) -> None:
        fill(self, frames)
        self.values[..., 0, :] = 0

    if corrupted == "recompute":
        monkeypatch.setattr(baselines.RecomputeSampler, "sample_code", sample_code_without_history)
    if corrupted == "flushed":
        monkeypatch.setattr(baselines.FlushedCacheSampler, "_fill", fill_without_first_value)
    if corrupted == "appended":
        monkeypatch.setattr(baselines.AppendedCacheSampler, "_room", 4)
    assert baselines.same_codes(network) == (corrupted == "nothing")


def test_the_flushed_cache_is_refilled_with_half_its_window() -> None:
    network = random_flat_prior(4).transformer
    inputs = baselines.SamplerInputs.random(network, 2, 4, 9)
    flushed, num_cached = baselines.FlushedCacheSampler(network, inputs), []
    for _ in range(8):
        flushed.sample_frame()
        num_cached.append(flushed.num_cached)
    assert num_cached == [5, 3, 4, 5, 3, 4, 5, 3]  # with the frame just sampled
    assert flushed.codes.shape[1] == 3  # frames 9 and 10 kept, 11 sampled
    # conditions and numbers repeat after 9 frames
    fresh = baselines.FlushedCacheSampler(network, replace(inputs, codes=flushed.codes[:, :2]))
    assert torch.equal(fresh.sample_frame(), flushed.codes[:, -1])


def test_rounds_are_interleaved_and_timed_by_the_given_clock() -> None:
    now, threads, log = 0.0, torch.get_num_threads(), []

    def lasting(name: str, seconds: tuple[float, ...]) -> Any:
        calls = itertools.cycle(seconds)

        def work() -> None:
            nonlocal now
            now += next(calls)
            log.append((name, torch.get_num_threads()))

        return work

    jobs = {
        "a": timing.Job(lasting("a", (2.0,)), 4.0, 2),
        "b": timing.Job(lasting("b", (1.0,)), 0.0, 1),
        "c": timing.Job(lasting("c", (9.0, 4.0, 2.0, 8.0)), 0.0, 1),  # the first call is not timed
    }
    progress: list[tuple[int, int]] = []
    measured = timing.time_jobs(jobs, 3, lambda *counts: progress.append(counts), lambda: now)
    assert [m.seconds for m in measured["a"]] == [(2.0, 2.0)] * 3
    assert [m.seconds for m in measured["c"]] == [(4.0,), (2.0,), (8.0,)]
    assert timing.median_rate(measured["a"]) == 0.5
    assert timing.median_rate(measured["c"]) == 0.25
    assert timing.median_ratio(measured["a"], measured["c"]) == 2.0
    assert timing.rate_figures("x", measured["c"], 4) == {"x": 1.0, "x interval": [0.5, 2.0]}
    assert progress == [(n, 9) for n in range(1, 10)]
    assert all(count == (2 if name == "a" else 1) for name, count in log)
    assert [name for name, _ in log].count("b") == 6  # 3 timed, and one untimed in each round: threads had changed
    assert torch.get_num_threads() == threads


def test_a_job_may_be_warmed_up_in_every_round() -> None:
    calls: list[str] = []
    jobs = {name: timing.Job(lambda name=name: calls.append(name), 0.0) for name in "ab"}  # type: ignore[misc]
    timing.time_jobs(jobs, 2)
    assert "".join(calls) == "aabb" + "ab"
    calls.clear()
    timing.time_jobs(jobs, 2, warm_up_always=True)
    assert "".join(calls) == "aabb" * 2


def test_mean_seconds_waits_for_the_device() -> None:
    log: list[str] = []
    assert timing.mean_seconds(lambda: log.append("run"), 0.0, lambda: log.append("wait")) > 0
    assert log == ["run"] * 3 + ["wait"] + ["run"] * 3 + ["wait"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bench", "prior", "--preset", "tinny"), "unknown preset 'tinny'"),
        (("bench", "dream", "--batches", "0"), "batches=0"),
        (("bench", "dream", "--world", "nowhere"), "nowhere"),
    ],
)
def test_mistakes_are_one_sentence(arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(list(arguments))
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


def test_a_flat_prior_of_a_fixed_number_of_frames_is_refused() -> None:
    from worldmodel.bench.bench_prior import bench_prior

    worlds = bench_worlds(("tiny-flat",), None, 16)
    worlds[0].world.prior.max_frames = 12
    with pytest.raises(UserError, match="at most 12 frames"):
        bench_prior(worlds, (1,), 0.0, 1)
