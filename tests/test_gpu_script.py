"""The GPU scripts rehearsed without a GPU: all stages, killed and continued; also devices and half precision."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pretend
import pytest
import torch
from square import record_square, short

import worldmodel.dream.learner_options
import worldmodel.train.clip_trainer
import worldmodel.train.trainers
from worldmodel import envs
from worldmodel.cli.eval_world import policies_of
from worldmodel.common.errors import UserError
from worldmodel.common.runtime import Runtime
from worldmodel.common.spaces import Discrete
from worldmodel.data import Dataset
from worldmodel.dream import DreamEnv, DreamLearnerEnv, DreamVectorEnv, Simulator
from worldmodel.metrics import EvaluationSettings, evaluate, evaluate_clips
from worldmodel.metrics.clip_sources import generated_clips, recorded_clips
from worldmodel.prior.clip.clip_config import ClipConfig
from worldmodel.prior.status_config import StatusConfig
from worldmodel.tokenizer import TokenizerConfig
from worldmodel.train.clip_presets import TINY_CLIP
from worldmodel.train.clip_trainer import train_clip
from worldmodel.train.loop import Loop
from worldmodel.train.presets import PRESETS
from worldmodel.train.trainers import train_prior, train_tokenizer, train_world
from worldmodel.train.training_config import LoopConfig, WorldConfig
from worldmodel.train.training_run import TrainingRun
from worldmodel.world.world_model import WorldModel

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
FILES = {"curves.png", "dream.gif", "policy.zip", "result.json", "strip.png", "world-1.safetensors"}
STAGES = (
    *("record", "tokenizer", "prior", "world_files", "evaluate", "pictures", "policy", "test", "speed", "curves"),
    *("flat", "speed_flat", "evaluate_flat"),
)
PRIORS = ("tiny", "tiny-flat")


def few_steps(preset: str) -> WorldConfig:
    """A training of a few steps that uses everything a loop can do."""
    config = short(4, log_every=1)
    prior = replace(PRESETS[preset].prior, status=StatusConfig("place", (0.5, 1.5, 2.5)))
    tokenizer = replace(config.tokenizer, rare_weight=2.0)
    if preset == "tiny":
        prior = replace(prior, rare_weight=2.0)
    return replace(config, tokenizer=tokenizer, prior=prior)


def start(folder: Path) -> subprocess.Popen[str]:
    command = ["sh", str(BENCHMARKS / "gpu_first_dream.sh"), "--tiny", "--device", "cpu", "--workers", "2"]
    command += ["--work", str(folder / "work")]
    environment = {**os.environ, "OUT": str(folder / "out"), "PYTHON": sys.executable}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_the_rehearsal_continues_where_it_was_killed(tmp_path: Path) -> None:
    first = start(tmp_path)
    deadline = time.monotonic() + 120
    while not (tmp_path / "work" / "world.training" / "prior.safetensors").exists():
        assert first.poll() is None, first.stdout and first.stdout.read()
        assert time.monotonic() < deadline
        if (tmp_path / "work" / "world").exists():
            break
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    recorded = tmp_path / "work" / "first.h5"
    before = recorded.stat().st_mtime_ns
    second = start(tmp_path)
    output, _ = second.communicate(timeout=280)
    assert second.returncode == 0, output
    assert "record: done before" in output
    assert "tokenizer: done before" in output
    assert recorded.stat().st_mtime_ns == before
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert tuple(result["stages"]) == STAGES
    assert all("figures" in stage and stage["seconds"] >= 0 for stage in result["stages"].values())
    assert set(result["stages"]["evaluate"]["figures"]["sections"]) > {"free run", "likelihood"}
    assert {row["policy"] for row in result["stages"]["test"]["figures"]["rows"]} == {"dreamer", "random", "periodic"}
    assert all(row["steps_per_second"] > 0 for row in result["stages"]["speed"]["figures"]["dream"])
    assert result["versions"]["torch"] == torch.__version__


@pytest.mark.slow
def test_the_rehearsal_of_the_dream_engine_measures_every_stage(tmp_path: Path) -> None:
    command = ["sh", str(BENCHMARKS / "gpu_dream_engine.sh"), "--tiny", "--device", "cpu"]
    command += ["--work", str(tmp_path / "work")]
    environment = {**os.environ, "OUT": str(tmp_path / "out"), "PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout
    stages = json.loads((tmp_path / "out" / "result.json").read_text())["stages"]
    assert tuple(stages) == ("machine", "orders", "learner", "flat", "clip", "gpu_tests")
    assert set(stages["orders"]["figures"]) == {"columns", "raster", "groups", "frame"}
    for rows in (*stages["orders"]["figures"].values(), *stages["flat"]["figures"].values()):
        assert rows
        assert all(row["steps_per_second"] > 0 and row["state_bytes"] > 0 for row in rows)
    several, one = (rows[0]["state_bytes"] for rows in stages["flat"]["figures"].values())
    assert one < several, "one key-value head has a smaller state"
    assert stages["learner"]["figures"]["decisions/s"] > 0
    clip = stages["clip"]["figures"]
    for row in clip["rows"]:  # 8 frames of 4 x 4 codes
        assert row["codes_per_second"] == pytest.approx(row["rows"] * 8 * 16 / row["clip_seconds"])


@pytest.mark.slow
def test_the_rehearsal_of_the_clip_model_measures_every_stage(tmp_path: Path) -> None:
    command = ["sh", str(BENCHMARKS / "gpu_clip_model.sh"), "--tiny", "--device", "cpu"]
    command += ["--work", str(tmp_path / "work")]
    environment = {**os.environ, "OUT": str(tmp_path / "out"), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout
    files = {"samples.png", "result.json", "tokenizer.jsonl", "prior.jsonl"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == files
    stages = json.loads((tmp_path / "out" / "result.json").read_text())["stages"]
    names = ("data", "border", "tokenizer", "prior", "half_precision", "sample", "metrics", "pictures", "logs")
    assert tuple(stages) == names
    figures = {name: stage["figures"] for name, stage in stages.items()}
    assert figures["data"]["right_class"] == 1
    assert sum(figures["data"]["classes"].values()) == figures["data"]["episodes"]
    for stage in ("tokenizer", "prior"):
        assert figures[stage]["clips_per_second"] > 0
        assert figures[stage]["last_step"]["loss"] > 0
    assert figures["prior"]["report"]["nats_per_code"] > 0
    assert 0 < figures["half_precision"]["nats_difference_max"] < 0.5
    single, half_precision = figures["sample"]["rows"]
    assert single["log_prob_difference_max"] < 1e-3
    assert single["share_of_equal_codes"] == 1
    assert half_precision["log_prob_difference_per_code_max"] < 0.1
    assert half_precision["clips_per_second"] > 0
    assert 0 <= figures["sample"]["right_class"] <= 1
    distances = figures["metrics"]["samples"]["sections"]["distributions of clips"]
    assert distances["frechet_motion"]["values"][0]["baselines"]["half of the real clips"]["mean"] >= 0
    for row in ("whole frame encoded", "part encoded, border decoded", "part alone"):
        assert all(ms > 0 for ms in figures["border"][row]["decode_ms"].values())
        assert figures["border"][row]["train_step_ms"] > 0


@pytest.mark.slow
def test_the_rehearsal_of_a_world_measures_every_stage(tmp_path: Path) -> None:
    command = ["sh", str(BENCHMARKS / "gpu_worlds.sh"), "--world", "push", "--policy", "--tiny", "--device", "cpu"]
    command += ["--workers", "2", "--work", str(tmp_path / "work")]
    environment = {**os.environ, "OUT": str(tmp_path / "out"), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    stages = json.loads((tmp_path / "out" / "result.json").read_text())["stages"]
    assert tuple(stages) == (
        *("record", "policy", "test", "tokenizer", "prior", "world_files", "speed", "pictures", "evaluate", "plan"),
        "curves",
    )
    figures = {name: stage["figures"] for name, stage in stages.items()}
    assert figures["policy"]["decisions"] > 0
    assert [row["policy"] for row in figures["test"]["rows"]] == ["ppo", "random", "periodic"]
    sections = figures["evaluate"]["sections"]
    assert {"delta_psnr", "inverse_dynamics", "opposite_actions"} <= set(sections["obedience"])
    assert sections["permanence"]["permanence"]["values"]
    assert [row["policy"] for row in figures["plan"]["rows"]] == ["cem, dream", "cem, true simulator", "random"]
    assert all(row["episodes"] == 4 and 0 <= row["success"]["mean"] <= 1 for row in figures["plan"]["rows"])
    assert all(row["steps_per_second"] > 0 for row in figures["speed"]["dream"])
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0
    assert all(f"{name}: done before" in again.stdout for name in stages)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_rehearsal_of_the_paper_scores_the_model_and_runs_every_table(tmp_path: Path) -> None:
    command = ["sh", str(BENCHMARKS / "gpu_paper.sh"), "--tiny", "--device", "cpu", "--work", str(tmp_path / "work")]
    environment = {**os.environ, "OUT": str(tmp_path / "out"), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}

    def call(*more: str) -> str:
        done = subprocess.run([*command, *more], env=environment, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "for the next call: tokenizer" in call("--minutes", "0.001", "--only", "moving-mnist")
    call()
    tables = [f"table{number}" for number in range(3, 8)]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "result.json",
        "samples.png",
        *(f"{table}.png" for table in tables),
    }
    stages = json.loads((tmp_path / "out" / "result.json").read_text())["stages"]
    figures = {name: stage["figures"] for name, stage in stages.items()}
    assert {f"{table}-seed-{seed}" for table in tables for seed in (0, 1)} < set(figures)
    assert figures["tokenizer"]["report"]["psnr"] > 0
    assert figures["prior"]["report"]["nats_per_code"] > 0
    assert figures["reconstruction"]["sections"]["pairs of clips"]["nmse"]["values"][0]["value"]["mean"] > 0
    fvd = figures["fvd"]["sections"]["distributions of clips"]["fvd"]["values"][0]
    trials = [
        figures[f"fvd-trial-{number}"]["sections"]["distributions of clips"]["fvd"]["values"][0] for number in (0, 1)
    ]
    assert fvd["trials"] == [trial["value"]["mean"] for trial in trials]
    assert figures["fvd"]["floor"] == trials[0]["baselines"]["other real clips"]
    assert figures["best"]["psnr"]["best"] >= figures["best"]["psnr"]["first sample"]
    for table in tables:
        result = figures[f"{table}-seed-1"]
        assert result["seeds"] == [0, 1]
        assert all(len(row["figures"][result["measure"]]["values"]) == 2 for row in result["rows"])
        assert "minutes of wall-clock time" in result["budget"]
    again = call()
    assert all(f"{name}: done before" in again for name in stages)


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.usefixtures("scripts")
def test_a_staged_run_keeps_its_results_and_refuses_other_settings(tmp_path: Path) -> None:
    from gpu_run import StagedRun

    def staged_run(settings: dict[str, Any], seconds: float = 100.0) -> Any:
        return StagedRun(tmp_path / "work", tmp_path / "out", settings, {"device": "none"}, seconds)

    run, calls = staged_run({"minutes": 1}), []

    def work() -> dict[str, Any]:
        calls.append("good")
        return {"x": 1}

    def broken() -> dict[str, Any]:
        raise ValueError("not today")

    run.stage("good", work)
    run.stage("bad", broken)
    run.stage("after", work, ["good", "bad"])
    run.stage("long", work, min_seconds=1000)
    assert run.failed == ["bad"]
    again = staged_run({"minutes": 1})
    again.stage("good", work)
    assert calls == ["good"]
    stages = json.loads((tmp_path / "out" / "result.json").read_text())["stages"]
    assert stages["good"]["figures"] == {"x": 1}
    assert "not today" in stages["bad"]["error"]
    assert stages["after"]["left_out"] == "it needs bad"
    assert "it needs 1000" in stages["long"]["left_out"]
    assert again.once("number", lambda: 3) == staged_run({"minutes": 1}).once("number", lambda: 4) == 3
    with pytest.raises(UserError, match="another run"):
        staged_run({"minutes": 2})


@pytest.mark.usefixtures("scripts")
def test_every_world_of_a_gpu_run_has_its_policies_and_shares(tmp_path: Path) -> None:
    from gpu_run import StagedRun
    from gpu_world_sizes import WORLDS, tiny
    from gpu_world_stages import WorldStages
    from gpu_worlds import ENGINES

    assert set(WORLDS) == set(ENGINES)
    run = StagedRun(tmp_path / "work", tmp_path / "out", {}, {}, 100.0)
    for name, sizes in WORLDS.items():
        row = envs.lookup(sizes.env)
        assert row.requires == ENGINES[name]
        assert row.objects
        for with_policy in (False, True):
            stages = WorldStages(run, sizes, 9.5, "cpu", 15, with_policy)
            assert sum(stages.shares.values()) < 0.9
            assert set(stages.shares) >= {"record", "tokenizer", "prior"}
            policies = stages.mixture(Discrete(4))  # the space matters for the periodic policies alone
            assert sum(spec.share for spec in policies) == pytest.approx(1)
            assert sizes.baselines[-1] in {spec.name for spec in policies}
        assert WorldStages(run, tiny(name), 9.5, "cpu", 2).mixture(Discrete(5))[0].name == "periodic"
        assert (tiny(name).plan is None) == (sizes.plan is None)


@pytest.mark.usefixtures("scripts")
def test_plans_of_several_processes_are_one_table() -> None:
    from gpu_plan import merged_rows

    def part(dream: list[float], baseline: list[float]) -> list[dict[str, Any]]:
        rows = {"dream": dream, "random": baseline}
        return [
            {"policy": name, "episodes": 2, "returns": values, "steps_mean": 3.0, "successes": [x > 1 for x in values]}
            for name, values in rows.items()
        ]

    first, second = part([2.0, 3.0], [0.0, 1.0]), part([1.0, 2.0], [5.0, 0.0])
    first[0]["seconds_per_search"], second[0]["seconds_per_search"] = 1.0, 3.0
    dream, random = merged_rows([first, second])
    assert dream["episodes"] == random["episodes"] == 4
    assert dream["return_mean"] == 2
    assert dream["seconds_per_search"] == 2
    assert "seconds_per_search" not in random
    assert dream["success"]["mean"] == 0.75
    assert random["success_first_minus_this"]["mean"] == 0.5
    assert random["first_minus_this"]["mean"] == 0.5


@pytest.mark.usefixtures("scripts")
@pytest.mark.parametrize(("size", "num_frames"), [(64, 16), (16, 4)])
def test_the_motion_of_a_square_is_its_class(size: int, num_frames: int) -> None:
    from gpu_moving_squares import motion_classes, moving_square

    classes = torch.arange(40) % 4
    clips = torch.stack([torch.from_numpy(moving_square(i, i % 4, size, num_frames)) for i in range(40)])
    assert clips.shape == (40, num_frames, size, size, 3)
    assert torch.equal(motion_classes(clips), classes)
    assert motion_classes(torch.full_like(clips, 30)).tolist() == [-1] * 40


@pytest.mark.usefixtures("scripts")
def test_a_batch_that_does_not_fit_into_memory_is_halved_also_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpu_clip_stages import TINY, ClipStages
    from gpu_run import StagedRun

    tried = []

    def train_prior(self: Any, batch: int) -> dict[str, Any]:
        tried.append(batch)
        if batch > 8:
            raise torch.OutOfMemoryError("too large")
        return {"batch": batch}

    monkeypatch.setattr(ClipStages, "train_prior", train_prior)
    sizes = replace(TINY, prior_batches=(16, 8, 4))
    for _ in range(2):
        run = StagedRun(tmp_path / "work", tmp_path / "out", {}, {}, 100.0)
        assert ClipStages(run, sizes, 1.0, "cpu").prior() == {"batch": 8}
    assert tried == [16, 8, 8]


@pytest.fixture(scope="module")
def square(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return record_square(tmp_path_factory.mktemp("square") / "square.h5", 40)


@pytest.mark.usefixtures("scripts")
def test_a_world_is_packed_in_small_files(square: Dataset, tmp_path: Path) -> None:
    from gpu_world_files import pack, unpack

    world = train_world(square, tmp_path / "world", few_steps("tiny"), device="cpu")
    size = sum(tensor.numel() * tensor.element_size() for tensor in world.state_dict().values())
    for folder in ("whole", "lost", "small"):
        (tmp_path / folder).mkdir()
    assert len(pack(world, tmp_path / "whole", max_files=3, limit=size // 2)) > 1
    unpack(tmp_path / "whole", tmp_path / "unpacked")
    unpacked = WorldModel.from_pretrained(tmp_path / "unpacked")
    frames = torch.from_numpy(square.frames(0))[None]
    assert torch.equal(unpacked.tokenizer.encode(frames), world.tokenizer.encode(frames))
    for name, tensor in world.prior.state_dict().items():
        torch.testing.assert_close(unpacked.prior.state_dict()[name], tensor, rtol=1e-2, atol=1e-3)
    for path in pack(world, tmp_path / "lost", max_files=3, limit=size // 2)[1:]:
        path.unlink()
    assert [path.name for path in pack(world, tmp_path / "small", max_files=1, limit=size // 2)] == [
        "world-1.safetensors"
    ]
    for folder in ("lost", "small"):
        with pytest.raises(UserError, match="whole world"):
            unpack(tmp_path / folder, tmp_path / "not")


@pytest.mark.parametrize("preset", PRIORS)
def test_training_and_dreaming_in_half_precision(
    preset: str, square: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = Runtime(torch.device("cpu"), torch.bfloat16)
    monkeypatch.setattr(worldmodel.train.trainers, "choose_runtime", lambda *_: half)
    world = train_world(square, tmp_path / "world", few_steps(preset))
    assert all(tensor.dtype in (torch.float32, torch.int64, torch.bool) for tensor in world.state_dict().values())
    steps = {}
    for dtype in (torch.float32, torch.bfloat16):
        simulator = Simulator(world, 16, dtype=dtype)
        simulator.reset()
        steps[dtype] = simulator.step(torch.ones(16, dtype=torch.int64))
    single, half_precision = steps[torch.float32], steps[torch.bfloat16]
    assert half_precision.log_probs.dtype == half_precision.rewards.dtype == torch.float32
    torch.testing.assert_close(half_precision.hazards, single.hazards, rtol=0.05, atol=0.02)
    assert not torch.equal(half_precision.hazards, single.hazards)


@pytest.fixture
def another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training and dreams choose the pretended device; autocast, which does not know it, is switched off."""
    runtime = Runtime(pretend.DEVICE, torch.float32)
    for module in (worldmodel.train.trainers, worldmodel.train.clip_trainer, worldmodel.dream.learner_options):
        monkeypatch.setattr(module, "choose_runtime", lambda *_: runtime)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    for name in ("tensor", "as_tensor"):
        monkeypatch.setattr(torch, name, pretend.kept_there(getattr(torch, name)))
    monkeypatch.setattr(torch.__future__, "_swap_module_params_on_conversion", True)


def test_mixed_devices_are_detected() -> None:
    with pretend.Pretend():
        there = torch.ones(3, device=pretend.DEVICE)
        assert float((there + 1).sum()) == 6
        assert (there.cpu() + torch.ones(3)).tolist() == [2, 2, 2]
        assert there[torch.tensor([0, 2])].device == pretend.DEVICE
        with pytest.raises(RuntimeError, match="are here, others there"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="indices there"):
            torch.ones(3)[there.long()]
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()


@pytest.mark.slow
@pytest.mark.usefixtures("another_device")
@pytest.mark.parametrize("preset", PRIORS)
def test_nothing_mixes_devices(preset: str, square: Dataset, tmp_path: Path) -> None:
    """Training, evaluation and all interfaces of a dream on a device that is not the CPU."""
    config = few_steps(preset)
    with pretend.Pretend():
        tokenizer = train_tokenizer(square, tmp_path / "tokenizer", config).tokenizer
        assert tokenizer.codebook.embeddings.device == pretend.DEVICE
        world = train_prior(tmp_path / "tokenizer", square, tmp_path / "world", config)
        assert world.device == pretend.DEVICE
        evaluation = evaluate(
            world, square, policies_of(square), EvaluationSettings(clips=4, ahead=2, horizon=4, rows=3)
        )
        assert {"likelihood", "prediction", "outcomes", "reconstruction"} < set(evaluation["sections"])
        actions = np.ones(3, np.int64)
        learner = DreamLearnerEnv(world, 3, reward="status", hold=2, horizon=4)
        vector = DreamVectorEnv(3, world=world, batch_invariant=True)
        single = DreamEnv(world)
        learner.reset()
        vector.reset(seed=0)
        single.reset(seed=0)
        for _ in range(4):
            learner.step(actions)
        vector.step(actions)
        single.step(0)


@pytest.fixture
def clips(scripts: None, tmp_path: Path) -> Dataset:
    from gpu_moving_squares import write_clips

    return write_clips(tmp_path / "clips.h5", 20, 16, 4)


CLIP_TOKENIZER = replace(TINY_CLIP.tokenizer, axial_attention=True, restart_below=0.99)
FRAME_TOKENIZER = PRESETS["tiny"].tokenizer
SMALL_PRIOR = ClipConfig(num_frames=4, width=16, num_heads=2, num_layers=1)
CLIP_MODELS = {  # dataset, tokenizer, prior
    "class": ("clips", CLIP_TOKENIZER, replace(SMALL_PRIOR, class_label=True, previous_frame=True, dropout=0.1)),
    "given frame": ("clips", CLIP_TOKENIZER, replace(SMALL_PRIOR, num_given_frames=1, positions="paper")),
    "actions of the clip": ("square", CLIP_TOKENIZER, replace(SMALL_PRIOR, actions="clip", num_kv_heads=1)),
    "action of the step": ("square", FRAME_TOKENIZER, replace(SMALL_PRIOR, actions="step")),
}


@pytest.mark.slow
@pytest.mark.usefixtures("another_device")
@pytest.mark.parametrize(
    ("source", "tokenizer", "prior"), CLIP_MODELS.values(), ids=[name.replace(" ", "-") for name in CLIP_MODELS]
)
def test_a_clip_model_mixes_no_devices(
    source: str, tokenizer: TokenizerConfig, prior: ClipConfig, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Training, sampling, log-probabilities and metrics on a device that is not the CPU."""
    clips = request.getfixturevalue(source)
    loop = {"num_steps": 2, "batch_size": 2, "log_every": 1, "validations": 1, "ema_decay": 0.8}
    config = replace(
        TINY_CLIP,
        tokenizer=tokenizer,
        prior=prior,
        train_tokenizer=replace(TINY_CLIP.train_tokenizer, **loop),
        train_prior=replace(TINY_CLIP.train_prior, **loop),
    )
    with pretend.Pretend():
        model = train_clip(clips, tmp_path / "model", config)
        assert model.device == pretend.DEVICE
        assert model.report["nats_per_code"] > 0
        batches = list(recorded_clips(clips, 4, 2, "test"))
        generated = list(generated_clips(model, batches))
        assert [x.device.type for x in generated] == ["cpu"]
        evaluate_clips([batch.frames for batch in batches], generated)
        frames, conditioning = batches[0].frames, model.conditioning_of(batches[0])
        for given in (conditioning, conditioning.to(model.device)):  # conditions may be here or there
            assert model.log_prob(frames, given).device == pretend.DEVICE
            sampled = model.sample(2, given.class_index, given.actions, frames=given.frames, batch_size=1)
            assert sampled.device == pretend.DEVICE
        assert model.log_prob(frames.to(model.device), conditioning).device == pretend.DEVICE


def test_a_budget_is_measured_for_a_share_of_its_time(tmp_path: Path) -> None:
    """A dozen steps are an instant on a GPU; until the number of steps is known, the learning rate is not lowered."""
    config = LoopConfig(minutes=10.0, warmup_steps=20)
    runtime = Runtime(torch.device("cpu"), torch.float32)
    run = TrainingRun(tmp_path, runtime)
    loop = Loop("tokenizer", torch.nn.Linear(1, 1), config, 0, run, lambda _: None, lambda: None)  # type: ignore[arg-type,return-value]
    loop.step = 300
    assert not loop._is_timed(5.0)
    assert loop._is_timed(20.0)
    loop.step = 3
    assert not loop._is_timed(20.0)
    assert loop._rate(300) == 1.0
