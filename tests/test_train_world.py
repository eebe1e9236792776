"""Training: the stages alone equal a world trained in one call, and so do killed runs and several processes."""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from square import SIZE, digests, record_square, short, train_and_keep, train_as_rank
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from worldmodel.cli import command_line as cli
from worldmodel.common.errors import UserError
from worldmodel.data import ClipSampler, Dataset
from worldmodel.dream.dream_clips import render_comparisons
from worldmodel.prior import FactoredPrior, FlatConfig
from worldmodel.train import LoopConfig, train_prior, train_tokenizer, train_world
from worldmodel.train.calibration import calibrate_hazards
from worldmodel.train.code_cache import CodeCache, encode_dataset
from worldmodel.train.loop import Loop
from worldmodel.train.presets import PRESETS
from worldmodel.train.training_config import PriorTraining, stage_config
from worldmodel.world.tokenizer_storage import TokenizerCheckpoint
from worldmodel.world.world_model import WorldModel


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("data")
    record_square(folder / "square.h5").close()
    return folder / "square.h5"


@pytest.fixture(scope="module")
def data(path: Path) -> Dataset:
    return Dataset(path)


@pytest.fixture(scope="module")
def world_dir(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    train_and_keep(path, folder / "world", folder / "kept", short())
    return folder / "world"


@pytest.fixture(scope="module")
def tokenizer_dir(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    train_tokenizer(data, out, short())
    return out


def rows(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_equal(a: torch.nn.Module, b: torch.nn.Module) -> None:
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, b.state_dict()[name]), name


# -- the commands ------------------------------------------------------------------------------------------


def test_both_stages_alone_equal_a_world_trained_in_one_call(
    data: Dataset, world_dir: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    both = train_prior(tokenizer_dir, data, tmp_path / "world", short())
    assert_equal(WorldModel.from_pretrained(world_dir), both)
    assert {"model.safetensors", "config.json", "README.md", "training"} == {p.name for p in tokenizer_dir.iterdir()}
    again = train_prior(world_dir, data, tmp_path / "again", short())  # a world's tokenizer serves as well
    assert_equal(both, again)
    assert train_tokenizer(data, tokenizer_dir, short()).report["psnr"] > 5  # finished: read again


def test_the_commands_train_and_print_the_report(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = ["--train-tokenizer.num-steps", "3", "--train-tokenizer.validations", "0"]
    files = ["--data", str(path), "--preset", "tiny", "--device", "cpu", "--json"]
    cli.main(["train", "tokenizer", *files, "--out", str(tmp_path / "t"), *steps])
    assert json.loads(capsys.readouterr().out)["tokenizer"] == str(tmp_path / "t")
    steps = ["--train-prior.num-steps", "3", "--overfit-one-batch"]
    cli.main(["train", "prior", "--tokenizer", str(tmp_path / "t"), *files, "--out", str(tmp_path / "w"), *steps])
    report = json.loads(capsys.readouterr().out)
    assert report["trained on"] == "one batch, again and again"
    assert "one batch" in (tmp_path / "w" / "README.md").read_text()
    run = tmp_path / "w" / "run.json"
    cli.main(["train", "prior", "--config", str(run)])  # finished: says so by its figures
    assert json.loads(capsys.readouterr().out) == report


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as exit_:
        cli.main([str(a) for a in arguments])
    assert exit_.value.code == 2
    message = capsys.readouterr().err.split("\r")[-1]
    assert message.strip().count("\n") == 0, message
    return message


def test_bad_input_is_refused_in_one_sentence(
    path: Path, world_dir: Path, tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    to = ("--out", out, "--preset", "tiny", "--device", "cpu")
    prior, tokenizer = ("train", "prior", "--data", path, *to), ("train", "tokenizer", "--data", path, *to)
    assert "no tokenizer directory" in refused(capsys, *prior, "--tokenizer", tmp_path / "none")
    assert "config.json" in refused(capsys, *prior, "--tokenizer", tmp_path)
    assert "foreign" in refused(capsys, "train", "tokenizer", "--data", tmp_path / "foreign.h5", *to)
    assert "init_from" in refused(capsys, *tokenizer, "--init-from", tmp_path)
    assert "do not fit" in refused(capsys, *tokenizer, "--init-from", tokenizer_dir, "--tokenizer.width", 16)
    assert "world directory" in refused(capsys, *prior, "--tokenizer", tokenizer_dir, "--init-from", tokenizer_dir)
    assert "do not fit" in refused(
        capsys, *prior, "--tokenizer", tokenizer_dir, "--init-from", world_dir, "--prior.width", 64
    )
    assert "minutes" in refused(capsys, *tokenizer, "--minutes", 0)
    steps = ("--minutes", 1, "--train-tokenizer.num-steps", 7)
    assert "--minutes 1 and --train-tokenizer.num-steps 7 contradict" in refused(capsys, *tokenizer, *steps)
    world = ("train", "world", "--data", path, "--out", out, "--device", "cpu")  # without a preset too
    assert "--train-prior.num-steps 9" in refused(capsys, *world, "--minutes", 1, "--train-prior.num-steps", 9)
    assert "cuda" in refused(capsys, *prior[:-1], "tpu", "--tokenizer", tokenizer_dir)
    shutil.copytree(tokenizer_dir, tmp_path / "bent")
    (tmp_path / "bent" / "model.safetensors").write_bytes(b"0" * 100)
    assert "damaged" in refused(capsys, *prior, "--tokenizer", tmp_path / "bent")
    config = json.loads((tokenizer_dir / "config.json").read_text())
    del config["config_sha256"]
    for change, word in (
        ({"version": 9}, "version 9"),
        ({"tokenizer": {**config["tokenizer"], "flavour": 1}}, "extra fields found"),
        ({"tokenizer": {**config["tokenizer"], "width": 16}}, "do not fit"),
        ({"pixels": {**config["pixels"], "size": [32, 32]}}, "record like frames"),
    ):
        (tmp_path / "bent" / "config.json").write_text(json.dumps({**config, **change}))
        shutil.copy(tokenizer_dir / "model.safetensors", tmp_path / "bent")
        assert word in refused(capsys, *prior, "--tokenizer", tmp_path / "bent")
    assert "clip_length" in refused(capsys, *prior, "--tokenizer", tokenizer_dir, "--train-prior.clip-length", 99)
    status = ("--prior.status.variable", "health", "--prior.status.edges", 50.0)
    assert "'health'" in refused(capsys, *prior, "--tokenizer", tokenizer_dir, *status)
    assert "time='frame'" in refused(capsys, "train", "world", "--data", path, *to, "--tokenizer.time", "clip")
    assert not list(tmp_path.glob("out*"))
    out.mkdir()
    (out / "thesis.tex").touch()
    assert "not this run's tokenizer" in refused(capsys, *tokenizer)
    with pytest.raises(UserError, match="not a tokenizer"):
        TokenizerCheckpoint.from_pretrained(tokenizer_dir).save_pretrained(out)
    assert (out / "thesis.tex").exists()


def test_training_begins_with_given_weights(
    data: Dataset, world_dir: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    still = {"learning_rate": 1e-12, "ema_decay": 0.0, "weight_decay": 0.0}
    config, source = short(1, **still), WorldModel.from_pretrained(world_dir)
    world = train_world(data, tmp_path / "w", config, init_from=world_dir)
    for name, weight in source.named_parameters():
        torch.testing.assert_close(world.get_parameter(name), weight, atol=1e-9, rtol=0)
    torch.testing.assert_close(world.prior.heads.reward_std, source.prior.heads.reward_std)
    with pytest.raises(UserError, match="not this run's"):
        train_world(data, tmp_path / "w", config, init_from=tokenizer_dir)  # other weights make another run
    world = train_world(data, tmp_path / "v", config, init_from=tokenizer_dir)
    for name, weight in source.tokenizer.named_parameters():
        torch.testing.assert_close(world.tokenizer.get_parameter(name), weight, atol=1e-9, rtol=0)


def test_a_tilde_means_the_home_directory(
    data: Dataset, world_dir: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(world_dir, tmp_path / "world")
    shutil.copytree(tokenizer_dir, tmp_path / "tokenizer")
    world = WorldModel.from_pretrained("~/world")
    world.save_pretrained("~/copy")
    TokenizerCheckpoint.from_pretrained("~/tokenizer").save_pretrained("~/codes")
    train_tokenizer(data, "~/short", short(2), init_from="~/world")
    train_prior("~/codes", data, "~/prior", short(2), init_from=None)
    train_world(data, "~/again", short(2), init_from="~/tokenizer")
    names = {"world", "tokenizer", "copy", "codes", "short", "prior", "again"}
    assert {path.name for path in tmp_path.iterdir()} == names


# -- the loop ----------------------------------------------------------------------------------------------


def test_the_averaged_weights_are_saved(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update, seen = Loop.update, []

    def watch(self: Loop) -> None:
        if not seen:
            seen.append([p.detach().clone() for p in self.parameters])
        update(self)
        seen.append([p.detach().clone() for p in self.parameters])

    monkeypatch.setattr(Loop, "update", watch)
    made = train_tokenizer(data, tmp_path / "t", short(15, ema_decay=0.5))
    average = seen[0]
    for step, weights in enumerate(seen[1:]):
        decay = min(0.5, (1 + step) / (10 + step))  # 0.1 at first, 0.5 from step 8 on
        average = [decay * a + (1 - decay) * w for a, w in zip(average, weights, strict=True)]
    for weight, wanted, last in zip(made.tokenizer.parameters(), average, seen[-1], strict=True):
        torch.testing.assert_close(weight, wanted)
        assert not torch.equal(weight, last) or not weight.any()


def test_overfitting_shows_the_first_batch_at_every_step(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gather, seen = ClipSampler.gather, []

    def watch(self: ClipSampler, episode: np.ndarray, start: np.ndarray) -> Any:
        seen.append([*episode, *start])
        return gather(self, episode, start)

    monkeypatch.setattr(ClipSampler, "gather", watch)
    train_tokenizer(data, tmp_path / "a", dataclasses.replace(short(4, validations=0), overfit_one_batch=True))
    shown = seen[1:5]  # the first and the last are the validation clips
    assert all(clips == shown[0] for clips in shown)
    seen.clear()
    train_tokenizer(data, tmp_path / "b", short(4, validations=0))
    assert seen[1] == shown[0]
    assert seen[2] != shown[0]


def test_episodes_shorter_than_a_clip_are_reported(data: Dataset, tmp_path: Path) -> None:
    short_ones = int((data.lengths[data.episodes_of("train")] + 1 < 9).sum())
    assert short_ones
    world = train_world(data, tmp_path / "world", short(num_steps=4, clip_length=9), device="cpu")
    sentence = f"{short_ones} of {len(data.episodes_of('train'))} episodes"
    assert sentence in world.report["not learned"]
    assert sentence in (tmp_path / "world" / "README.md").read_text()


def test_validation_is_logged_with_images(data: Dataset, tmp_path: Path) -> None:
    train_world(data, tmp_path / "w", short(10, validations=2, log_every=5), draw_dreams=render_comparisons)
    for stage, height in (("tokenizer", 2), ("prior", 4)):
        lines = rows(tmp_path / "w" / "training" / f"{stage}.jsonl")
        assert [line["step"] for line in lines if "val/loss" in line] == [5, 10]
        assert [line["step"] for line in lines if "loss" in line] == [5, 10]
        events = EventAccumulator(str(tmp_path / "w" / "training" / "tensorboard" / stage)).Reload()
        assert [image.step for image in events.Images("val/strip")] == [5, 10]
        assert [scalar.step for scalar in events.Scalars("val/loss")] == [5, 10]
        picture = np.asarray(Image.open(tmp_path / "w" / "training" / f"{stage}.png"))
        assert picture.shape == (height * SIZE, 8 * SIZE, 3)
        assert picture.std() > 5


@pytest.mark.parametrize(
    "change", [{"ema_decay": 1.0}, {"validations": -1}, {"log_every": 0}, {"num_steps": 0, "minutes": 0.0}]
)
def test_loop_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(change))):
        LoopConfig(**change)


@pytest.mark.parametrize("checked", ["at once", "later"])
def test_a_loss_that_is_not_finite_names_its_clips(
    checked: str, data: Dataset, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = short(12, checkpoint_seconds=0.0, log_every=7)
    loss, calls = FactoredPrior.loss, []

    def poisoned(self: FactoredPrior, clip: Any) -> dict[str, torch.Tensor]:
        losses = loss(self, clip)
        calls.append(0)
        return {**losses, "loss": losses["loss"] * (float("inf") if len(calls) == 6 else 1.0)}

    if checked == "later":  # as on a GPU, where it is checked when a line is logged or a checkpoint written
        refuse = Loop._check_divergence
        at_once = Loop.update.__code__
        monkeypatch.setattr(
            Loop,
            "_check_divergence",
            lambda self: None if sys._getframe(1).f_code is at_once else refuse(self),
        )
        config = short(12, checkpoint_seconds=1e9, log_every=7)
    monkeypatch.setattr(FactoredPrior, "loss", poisoned)
    with pytest.raises(UserError) as error:
        train_prior(tokenizer_dir, data, tmp_path / "w", config)
    message = str(error.value)
    episodes, starts = ClipSampler(data, 3, 16, "train", 0).locate(5)
    assert "prior diverged at step 5 of seed 0" in message
    assert ", ".join(f"{e}:{s}" for e, s in zip(episodes, starts, strict=True)) in message
    assert f"at step {5 if checked == 'at once' else 7})" in message  # when it was noticed
    assert not (tmp_path / "w").exists()
    kept = tmp_path / "w.training" / "prior.safetensors"
    assert kept.exists() == (checked == "at once")
    if kept.exists():
        assert all(tensor.isfinite().all() for tensor in load_file(kept).values())
    monkeypatch.undo()
    train_prior(tokenizer_dir, data, tmp_path / "w", config)  # goes on from there


# -- stopped, killed, continued ----------------------------------------------------------------------------


class Stop(Exception):
    pass


@pytest.mark.parametrize("stop_at", [("tokenizer", 6), ("prior", 3)])
def test_a_stopped_run_continues_as_if_never_stopped(
    stop_at: tuple[str, int], world_dir: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Loop.update

    def stop(self: Loop) -> None:
        self.calls = getattr(self, "calls", 0) + 1  # type: ignore[attr-defined]
        if (self.stage, self.calls) == stop_at:  # type: ignore[attr-defined]
            raise Stop
        update(self)

    monkeypatch.setattr(Loop, "update", stop)
    with pytest.raises(Stop):
        train_world(data, tmp_path / "stopped", short())
    assert not (tmp_path / "stopped").exists()
    with pytest.raises(UserError, match="another training"):
        train_world(data, tmp_path / "stopped", dataclasses.replace(short(), seed=1))
    monkeypatch.setattr(Loop, "update", update)
    seen: list[tuple[str, int]] = []
    continued = train_world(
        data, tmp_path / "stopped", short(), progress=lambda stage, step, *_: seen.append((stage, step))
    )
    assert (stop_at[0], 3) not in seen or stop_at == ("prior", 3)
    assert_equal(WorldModel.from_pretrained(world_dir), continued)
    for stage in ("tokenizer", "prior"):
        lines = rows(tmp_path / "stopped" / "training" / f"{stage}.jsonl")
        assert lines == rows(world_dir / "training" / f"{stage}.jsonl")
        assert [line["step"] for line in lines if "loss" in line] == [3, 6, 9, 12]
    assert not (tmp_path / "stopped.training").exists()


def in_process(target: Any, *arguments: Any) -> multiprocessing.Process:
    """Start a process, forked from a server that has torch loaded: fast, and without threads of this process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["worldmodel.train", "torch.utils.tensorboard", "torch._dynamo"])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process  # type: ignore[return-value]


def wait_for(lines: int, log: Path, alive: Any) -> None:
    """Wait until a log has so many lines."""
    limit = time.monotonic() + 120
    while alive() and time.monotonic() < limit:
        if log.exists() and log.read_text().count("\n") >= lines:
            return
        time.sleep(0.002)


def test_a_run_killed_twice_equals_one_never_killed(path: Path, world_dir: Path, tmp_path: Path) -> None:
    config, draw = short(log_every=1), random.Random()
    run = (train_and_keep, path, tmp_path / "killed", tmp_path / "kept", config)
    for stage in ("tokenizer", "prior"):
        process = in_process(*run, 0.03)
        wait_for(draw.randint(2, 9), tmp_path / "killed.training" / "training" / f"{stage}.jsonl", process.is_alive)
        time.sleep(draw.random() * 0.05)
        os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (tmp_path / "killed").exists()
    process = in_process(*run)
    process.join(60)
    calm = digests(world_dir.parent / "kept")
    assert {name.split(".")[0] for name in calm} == {"tokenizer", "prior"}
    assert {name.split()[1].split(".")[0] for name in calm} == {"model", "average", "optimiser"}
    assert digests(tmp_path / "kept") == calm
    assert digests(tmp_path / "killed") == digests(world_dir)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["factored", "flat"])
def test_a_run_killed_many_times_equals_one_never_killed(kind: str, path: Path, tmp_path: Path) -> None:
    config = short(60, log_every=1, validations=2)
    if kind == "flat":
        config = dataclasses.replace(
            config, prior=FlatConfig(window=2, width=32, num_heads=2, num_layers=2, dropout=0.2, history_noise=0.05)
        )
    train_and_keep(path, tmp_path / "calm", tmp_path / "calm-kept", config)
    calm, draw = digests(tmp_path / "calm-kept"), random.Random(kind)
    from worldmodel.cli.train_commands import TrainWorld
    from worldmodel.common.run_info import save_run_info

    out, folder = tmp_path / "killed", tmp_path / "killed.training"
    saved = tmp_path / "command.json"
    save_run_info(saved, "train world", TrainWorld((path,), out, config, device="cpu"))
    command = [sys.executable, "-m", "worldmodel", "train", "world", "--config", str(saved)]
    kills = 0
    for stage, times in (("tokenizer", 4), ("prior", 4)):
        begun = 0
        for _ in range(times):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            begun = draw.randint(begun + 1, begun + 12)
            wait_for(begun, folder / "training" / f"{stage}.jsonl", lambda p=process: p.poll() is None)
            time.sleep(draw.random() * 0.03)
            process.kill()
            assert process.wait() == -signal.SIGKILL
            kills += 1
    assert kills == 8
    finished = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kept: dict[str, str] = {}
    while finished.poll() is None:  # the last checkpoints stand for a moment before the folder goes
        try:
            kept = {**kept, **digests(folder)}
        except (OSError, ValueError, RuntimeError):  # a file that is being replaced
            continue
    assert finished.wait() == 0
    assert kept == calm
    assert digests(out) == digests(tmp_path / "calm")


def in_two_processes(path: Path, out: Path, config: Any, pause: float = 0.0) -> list[multiprocessing.Process]:
    """Start `train_and_keep` in two processes that train together."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = out.with_name(f"{out.name}-kept")
    return [in_process(train_as_rank, rank, 2, port, path, out, kept, config, pause) for rank in range(2)]


def test_two_processes_train_the_same_world_as_one_and_one_continues_it(tmp_path: Path) -> None:
    """On noisy frames: where many patches are equal, rounding decides between equal codes."""
    path = tmp_path / "noisy.h5"
    record_square(path, 40, noise=25)
    config = short(5, ema_decay=0.0, checkpoint_seconds=0.0, log_every=1)
    two = in_two_processes(path, tmp_path / "two", config)
    train_and_keep(path, tmp_path / "one", tmp_path / "one-kept", config)
    for process in two:
        process.join(100)
        assert process.exitcode == 0
    stopped = in_two_processes(path, tmp_path / "moved", config, pause=0.5)
    wait_for(3, tmp_path / "moved.training" / "training" / "tokenizer.jsonl", stopped[0].is_alive)
    for process in stopped:
        process.kill()
        process.join()
    assert not (tmp_path / "moved").exists()
    stages: list[tuple[str, int]] = []
    train_and_keep(path, tmp_path / "moved", tmp_path / "moved-kept", config, progress=lambda *x: stages.append(x[:2]))
    assert ("tokenizer", 1) not in stages, "continued"
    for stage, n in itertools.product(("tokenizer", "prior"), ("two", "moved")):
        one, both = (load_file(tmp_path / f"{k}-kept" / f"{stage}.safetensors") for k in ("one", n))
        assert one.keys() == both.keys()
        for name in one:
            torch.testing.assert_close(both[name], one[name], atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        for a, b in zip(*(rows(tmp_path / k / "training" / f"{stage}.jsonl") for k in ("one", n)), strict=True):
            assert a == pytest.approx(b, rel=1e-3, abs=1e-4)


def test_a_finished_run_is_loaded_and_another_one_refused(data: Dataset, world_dir: Path) -> None:
    called: list[str] = []
    train_world(data, world_dir, short(), progress=lambda stage, *_: called.append(stage))
    assert not called  # finished: loaded, not trained again
    with pytest.raises(UserError, match="not this run's"):
        train_world(data, world_dir, short(13))


def test_a_budget_in_minutes_becomes_a_number_of_steps(data: Dataset, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    train_world(
        data,
        tmp_path / "w",
        PRESETS["tiny"],
        minutes=0.01,
        progress=lambda *x: seen.append((x[0], x[1], x[2])),
    )
    totals = {stage: total for stage, _, total in seen}
    assert set(totals) == {"tokenizer", "prior"}
    assert all(step == total for stage, step, total in seen[-1:])


def test_every_frame_has_the_same_total_weight_in_an_epoch(data: Dataset) -> None:
    codes = np.zeros((data.num_frames, 2, 2), np.int32)
    cache = CodeCache(data, codes, 16, PRESETS["tiny"].prior.status)
    last_only, all_frames = np.zeros(data.num_frames), np.zeros(data.num_frames)
    length = 3
    for number in range(data.num_episodes):
        starts = np.arange(data.lengths[number] + 2 - length)
        clip = cache.clip(np.full_like(starts, number), starts, length)
        rows = (data.frame_offsets[number] + starts)[:, None] + np.arange(length)
        np.add.at(last_only, rows, clip.weights.numpy())
        np.add.at(
            all_frames, rows, cache.clip(np.full_like(starts, number), starts, length, all_frames=True).weights.numpy()
        )
    long = data.lengths >= length - 1
    frames = np.repeat(long, data.lengths + 1)
    assert (last_only[frames] == 1).all()
    np.testing.assert_allclose(all_frames[frames], length, rtol=1e-6)


def test_a_world_can_be_trained_on_a_crop_of_the_frames(data: Dataset, path: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(short(4), crop=(0, 16, 8, 16))
    world = train_world(path, tmp_path / "w", config, device="cpu")
    assert world.spec.pixels.crop == (0, 16, 8, 16)
    assert world.tokenizer.frame_shape == (16, 8, 3)
    assert train_world(data, tmp_path / "w", config, device="cpu").spec == world.spec  # an open dataset is cropped too
    again = train_prior(tmp_path / "w", path, tmp_path / "again", stage_config(config, PriorTraining), device="cpu")
    assert again.spec == world.spec  # the tokenizer says what part


def test_hazards_are_calibrated_on_the_validation_split(data: Dataset, world_dir: Path) -> None:
    world = WorldModel.from_pretrained(world_dir)
    codes = encode_dataset(data, world.tokenizer, world_dir.parent / "calibration.npy")
    cache = CodeCache(data, codes, world.tokenizer.config.num_codes, world.prior.status_config)
    last = data.step_offsets + data.lengths - 1
    validation = data.episodes_of("validation")
    steps = int(data.lengths[validation].sum() - data.flat("truncations")[last[validation]].sum())
    heads = world.prior.heads
    heads.end.bias.data += 3.0  # terminations are predicted far too often
    before = heads.end_shift.item()
    assert calibrate_hazards(world, cache) == steps  # each of them once
    assert heads.end_shift.item() < before - 1
