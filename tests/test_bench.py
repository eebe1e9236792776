"""The priors' and dreams' benchmarks: every row has its figures, ratios are of one run, the ways do one work."""

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
from worldmodel.bench import step_baselines as stepping
from worldmodel.bench import timing as turns
from worldmodel.bench.bench_dream import bench_dream, multiply_adds
from worldmodel.bench.bench_worlds import bench_worlds, random_world
from worldmodel.cli import command_line as cli
from worldmodel.common.errors import UserError
from worldmodel.prior import FlatPrior
from worldmodel.train.presets import PRESETS, TINY_FLAT

TINY = ("--preset", "tiny", "tiny-flat", "--size", "16", "--seconds", "0.001", "--rounds", "1")
PRIORS = ("columns", "raster", "frame", "groups", "flat")


@pytest.fixture(autouse=True)
def small_matmul(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dream, "MATMUL", 128)
    monkeypatch.setattr(dream, "COPIED", 2**16)


def run(out: Path, *arguments: str) -> dict[str, Any]:
    cli.main([*arguments, "--out", str(out)])
    result = json.loads(out.read_text())
    assert {"machine", "packages", "code_version", "load_before", "rounds"} <= set(result)
    return result


def all_positive(row: dict[str, Any]) -> bool:
    numbers = [value for name, value in row.items() if isinstance(value, int | float) and name != "grown MB"]
    return all(math.isfinite(value) and value > 0 for value in numbers)


def test_priors_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(tmp_path / "a" / "prior.json", "bench", "prior", *TINY, "--batches", "1", "3")
    said = capsys.readouterr()
    assert "times ours" in said.out
    assert "turn" in said.err
    assert [row["prior"] for row in result["rows"]] == list(PRIORS)
    names = {"learn codes/s", "score frames/s", "parameters", "clips"}
    assert all(names <= set(row) and all_positive(row) for row in result["rows"])
    ways = [(row["way"], row["batch"]) for row in result["stepping"]]
    assert ways == [(way, batch) for batch in (1, 3) for way in ("cached", "appended", "recomputed", "flushed")]
    for row in result["stepping"]:
        ours = next(r for r in result["stepping"] if r["way"] == "cached" and r["batch"] == row["batch"])
        assert all_positive(row)
        assert row["times ours"] == pytest.approx(row["ms a frame"] / ours["ms a frame"])  # of the one round
    assert result["same_codes"] is True


def test_dreams_are_measured(tmp_path: Path) -> None:
    result = run(tmp_path / "dream.json", "bench", "dream", *TINY, "--batches", "1", "3", "--threads", "1", "2",
                 "--learner-rows", "3")  # fmt: skip
    faces = (("Simulator", 1), ("DreamVectorEnv", 1), ("make('worldmodel/Dream-v0')", 1))
    ways = [("columns", *face) for face in (*faces, ("Simulator", 3), ("DreamVectorEnv", 3))]
    ways += [(prior, "Simulator", batch) for prior in PRIORS[1:] for batch in (1, 3)]
    wanted = [(*way, threads) for way, threads in itertools.product(ways, (1, 2))]
    assert [(r["prior"], r["way"], r["batch"], r["threads"]) for r in result["rows"]] == wanted
    for row in result["rows"]:
        assert all_positive(row)
        assert ("ms 99 %" in row) == (row["batch"] == 1)
        if row["batch"] == 1:
            assert row["ms 50 %"] <= row["ms 95 %"] <= row["ms 99 %"]
        if row["way"] == "Simulator":
            peak = result["matmul GFLOP/s"][str(row["threads"])] * 1e9
            assert row["share of matmul"] == pytest.approx(2 * row["multiply-adds"] * row["steps/s"] / peak)
            assert 0 <= row["grown MB"] < 500
            assert row["share of floor"] >= row["share of matmul"]
            assert (row["floor"] == "matmul") == (row["share of floor"] == row["share of matmul"])
        else:
            same = (row["prior"], "Simulator", row["batch"], row["threads"])
            alone = next(r for r in result["rows"] if (r["prior"], r["way"], r["batch"], r["threads"]) == same)
            assert row["share of Simulator"] == pytest.approx(row["steps/s"] / alone["steps/s"])
    assert result["copy GB/s"]["1"] > 0
    (learnt,) = result["learning"]
    assert learnt["rows"] == 3
    assert learnt["policy"] == "MlpPolicy", "frames of 16 x 16"
    assert learnt["decisions/s"] < learnt["dream alone, steps/s"]
    assert sum(learnt[f"share {name}"] for name in ("dream", "updates", "else")) == pytest.approx(1)
    assert min(learnt["share dream"], learnt["share updates"]) > 0


def test_a_world_of_ones_own_is_measured_as_it_is(tmp_path: Path) -> None:
    random_world(PRESETS["tiny"], (16, 16)).save_pretrained(tmp_path / "w")
    worlds = bench_worlds((), tmp_path / "w", 64)
    assert [(world.prior, world.world.tokenizer.frame_shape) for world in worlds] == [("columns", (16, 16, 3))]
    rows = bench_dream(worlds, (2,), (1,), 0.0, 1)["rows"]
    assert [row["way"] for row in rows] == ["Simulator", "DreamVectorEnv"]


def test_multiply_adds_of_a_layer_are_those_written_down() -> None:
    prior = TINY_FLAT.prior
    deeper = replace(TINY_FLAT, prior=replace(prior, num_layers=prior.num_layers + 1))
    more = multiply_adds(random_world(deeper, (16, 16))) - multiply_adds(random_world(TINY_FLAT, (16, 16)))
    width, positions, past = prior.width, 5, prior.window * 5
    seen = positions * (past + positions)  # so few positions read all of the cache, what is hidden too
    affines = 2 * prior.action_dim * 2 * width  # once a frame
    assert more == positions * 12 * width**2 + 2 * seen * width + affines


def eager_prior(window: int) -> FlatPrior:
    """A tiny flat prior whose codes depend on all that they may."""
    world = random_world(replace(TINY_FLAT, prior=replace(TINY_FLAT.prior, window=window)), (16, 16))
    assert isinstance(world.prior, FlatPrior)
    for parameter in world.prior.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return world.prior


@pytest.mark.parametrize("spoilt", ["nothing", "recomputed", "flushed", "appended"])
def test_ways_that_differ_are_told(spoilt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, code, fill = eager_prior(3).transformer, stepping.Recomputed.code, stepping.Flushed._fill

    def forgetful_code(self: stepping.Recomputed) -> None:
        self.pictures[:, :-4] = 0
        code(self)

    def forgetful_fill(self: stepping.Flushed, frames: int) -> None:
        fill(self, frames)
        self.values[..., 0, :] = 0

    if spoilt == "recomputed":
        monkeypatch.setattr(stepping.Recomputed, "code", forgetful_code)
    if spoilt == "flushed":
        monkeypatch.setattr(stepping.Flushed, "_fill", forgetful_fill)
    if spoilt == "appended":
        monkeypatch.setattr(stepping.Appended, "_room", 4)
    assert stepping.same_codes(network) == (spoilt == "nothing")


def test_the_flushed_way_refills_half_its_window() -> None:
    network = eager_prior(4).transformer
    script = stepping.Script.random(network, 2, 4, 9)
    flushed, held = stepping.Flushed(network, script), []
    for _ in range(8):
        flushed.frame()
        held.append(flushed.filled)
    assert held == [5, 3, 4, 5, 3, 4, 5, 3]  # with the frame just drawn
    assert flushed.pictures.shape[1] == 3  # frames 9 and 10 kept, 11 drawn
    fresh = stepping.Flushed(network, replace(script, pictures=flushed.pictures[:, :2]))  # what is given comes again
    assert torch.equal(fresh.frame(), flushed.pictures[:, -1])


def test_turns_are_timed_by_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now, threads, log = 0.0, torch.get_num_threads(), []
    monkeypatch.setattr(turns.time, "perf_counter", lambda: now)

    def lasting(name: str, seconds: tuple[float, ...]) -> Any:
        calls = itertools.cycle(seconds)

        def work() -> None:
            nonlocal now
            now += next(calls)
            log.append((name, torch.get_num_threads()))

        return work

    jobs = {
        "a": turns.Job(lasting("a", (2.0,)), 4.0, 2),
        "b": turns.Job(lasting("b", (1.0,)), 0.0, 1),
        "c": turns.Job(lasting("c", (9.0, 4.0, 2.0, 8.0)), 0.0, 1),  # the first is not timed
    }
    told: list[tuple[int, int]] = []
    laps = turns.in_turns(jobs, 3, lambda *turn: told.append(turn))
    assert [turn.seconds for turn in laps["a"]] == [(2.0, 2.0)] * 3
    assert [turn.seconds for turn in laps["c"]] == [(4.0,), (2.0,), (8.0,)]
    assert turns.rate(laps["a"]) == 0.5
    assert turns.rate(laps["c"]) == 0.25
    assert turns.ratio(laps["a"], laps["c"]) == 2.0
    assert told == [(n, 9) for n in range(1, 10)]
    assert all(count == (2 if name == "a" else 1) for name, count in log)
    assert [name for name, _ in log].count("b") == 6  # 3 timed, one more in each round: threads had changed
    assert torch.get_num_threads() == threads


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


def test_a_flat_prior_with_an_end_is_refused() -> None:
    from worldmodel.bench.bench_prior import bench_prior

    worlds = bench_worlds(("tiny-flat",), None, 16)
    worlds[0].world.prior.max_frames = 12
    with pytest.raises(UserError, match="knows 12 frames"):
        bench_prior(worlds, (1,), 0.0, 1)
