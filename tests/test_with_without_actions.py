"""benchmarks/with_without_actions.py: the commands it runs, its table, and a rehearsal of everything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldmodel.cli import command_line as cli
from worldmodel.collect import record
from worldmodel.common import spaces
from worldmodel.common.pixels import PixelSpec
from worldmodel.data.clips import Batch
from worldmodel.prior.clip.clip_config import ClipConfig
from worldmodel.tokenizer import TokenizerConfig
from worldmodel.world.clip_model import ClipModel
from worldmodel.world.world_spec import WorldSpec

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import with_without_actions

    return with_without_actions


def parse(script: Any, *flags: str) -> Any:
    return script.parser().parse_args(["--data", "push.h5", "--out", "twin", *flags])


def test_the_two_priors_differ_in_their_actions_alone(script: Any) -> None:
    commands = script.training_commands(parse(script, "--given-frames", "1", "--minutes", "3"))
    configs = {name: cli.parse(words)[1] for name, words in commands.items()}
    tokenizer, with_actions, without_actions = configs.values()
    assert tokenizer.training.tokenizer.time_stride == 4
    assert tokenizer.training.train_tokenizer.minutes == 3
    assert with_actions.tokenizer == without_actions.tokenizer == tokenizer.out
    assert with_actions.training.prior.num_given_frames == 1
    assert with_actions.training.prior.actions == "clip"
    words = [commands[name] for name in (script.WITH, script.WITHOUT)]
    assert {pair for pair in zip(*words, strict=True) if pair[0] != pair[1]} == {
        ("twin/with-actions", "twin/without-actions"),
        ("clip", "none"),
    }


def test_metrics_of_pairs_need_given_frames_except_for_reconstructions(script: Any) -> None:
    given = script.evaluation_commands(parse(script, "--given-frames", "1", "--metrics", "fvd,psnr"))
    _, config = cli.parse(given[script.WITHOUT])
    assert (config.metrics, config.best_of, config.context_frames, config.floor) == ("fvd,psnr", 10, 1, True)
    alone = script.evaluation_commands(parse(script, "--given-frames", "0", "--metrics", "fvd,psnr"))
    configs = {name: cli.parse(words)[1] for name, words in alone.items()}
    assert [(x.metrics, x.best_of) for x in configs.values()] == [("fvd", 1), ("fvd", 1), ("fvd,psnr", 1)]
    pairs = script.evaluation_commands(parse(script, "--given-frames", "0", "--metrics", "psnr"))
    assert list(pairs) == [script.BOUND], "nothing to compare samples by"


def test_a_stage_is_kept_until_its_settings_change(script: Any, tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> int:
        made.append(len(made))
        return made[-1]

    path = tmp_path / "stages" / "name.json"
    assert [script.stage(path, settings, make) for settings in (["a"], ["a"], ["b"])] == [0, 0, 1]


def test_the_table_has_the_stages_that_are_done(script: Any) -> None:
    value = {"mean": 1.0, "low": 0.5, "high": 1.5}
    settings = {**vars(parse(script, "--metrics", "fvd,psnr")), "data": "push.h5"}
    score = {"fvd": {"value": {**value, "low": None}, "baselines": {script.FLOOR: value}}, "psnr": {"value": value}}
    results = {script.WITH: score, "likelihood": {"true actions": value, "clips": 8}}
    trainings = {name: {"steps": 7} for name in (script.TOKENIZER, script.WITH, script.WITHOUT)}
    lines = script.table({"settings": settings, "results": results, "trainings": trainings}).splitlines()
    assert "| with actions | 1.000 | 1.000 [0.500, 1.500] |" in lines
    assert f"| {script.FLOOR} | 1.000 [0.500, 1.500] | - |" in lines
    assert "| true actions | 1.0000 [0.5000, 1.5000] |" in lines
    assert "without-actions 7." in lines[0]
    assert not any(line.startswith("| without") for line in lines)


def untrained(space: spaces.Space, actions: str, given_frames: int) -> ClipModel:
    """A clip model of 4 frames with random weights, so that every condition changes its predictions."""
    torch.manual_seed(0)
    tokenizer = TokenizerConfig(
        time="clip", space_stride=8, time_stride=2, clip_length=4, width=8, residual_width=8, num_layers=1,
        axial_attention=False, num_codes=8, code_dim=4,
    )  # fmt: skip
    prior = ClipConfig(num_frames=4, actions=actions, num_given_frames=given_frames, width=32, num_layers=1)  # type: ignore[arg-type]
    model = ClipModel(tokenizer, prior, WorldSpec("test/Clips-v0", PixelSpec((16, 16)), space)).eval()
    with torch.no_grad():
        for parameter in model.prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        model.tokenizer.codebook.embeddings.normal_()
        model.tokenizer.codebook.initialised.fill_(True)
    return model


@pytest.mark.parametrize(
    ("space", "given_frames"), [(spaces.MultiDiscrete((3, 2)), 0), (spaces.Box((-1.0, -1.0), (1.0, 1.0)), 1)]
)
def test_likelihood_and_samples_of_both_models(
    script: Any, tmp_path: Path, space: spaces.Space, given_frames: int
) -> None:
    models = {
        script.WITH: untrained(space, "clip", given_frames),
        script.WITHOUT: untrained(space, "none", given_frames),
    }
    models[script.WITHOUT].tokenizer = models[script.WITH].tokenizer
    rng, num = np.random.default_rng(0), 3
    one = np.zeros((num, 3), np.float32)
    batch = Batch(
        frames=rng.integers(0, 256, (num, 4, 16, 16, 3), np.uint8),
        frame_valid=np.ones((num, 4), bool),
        actions=np.stack([[space.sample(rng) for _ in range(3)] for _ in range(num)]),
        rewards=one,
        terminations=one > 0,
        truncations=one > 0,
        variables={},
        episode=np.arange(num),
        start=np.zeros(num, np.int64),
        labels=np.full(num, -1),
    ).torch()
    nats = script.likelihoods(models, [batch])
    true = (
        -models[script.WITH].log_prob(batch.frames, models[script.WITH].conditioning_of(batch)).mean() / nats["codes"]
    )
    assert nats["codes"] == 2 * 2 * 2
    assert nats["true actions"]["mean"] == pytest.approx(float(true), rel=1e-5)
    gap = nats["another clip's actions"]["mean"] - nats["true actions"]["mean"]
    assert nats["another clip's - true"]["mean"] == pytest.approx(gap)
    assert gap != 0

    clips = script.sample_clips(models[script.WITH], [batch], 5)
    given = models[script.WITH].conditioning_of(batch)
    given, seed = given.select(slice(1, 2)), 5 + script.SPREAD_SAMPLES
    sampling = script.DEFAULT_SAMPLING
    first = models[script.WITH].sample(1, None, given.actions, seed, sampling, given.frames)
    np.testing.assert_allclose(clips[1, 0].astype(int), first[0].numpy().astype(int), atol=1)
    spread = script.draw_samples(tmp_path, models, [batch], 5)
    assert spread[script.WITH]["mean"] > 0
    assert spread["drawn"][2] == {"episode": 2, "start": 0}
    assert (tmp_path / "samples.gif").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)  # eight processes that import torch
def test_a_rehearsal_makes_all_figures_and_is_kept(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record("toy", "random", tmp_path / "toy.h5", episodes=60, size=16, progress=False)
    command = [
        *(sys.executable, str(BENCHMARKS / "with_without_actions.py"), "--data", str(tmp_path / "toy.h5")),
        *("--out", str(tmp_path / "twin"), "--frames", "4", "--strides", "2x8", "--width", "16", "--codes", "16"),
        *("--prior-width", "32", "--prior-layers", "1", "--steps", "60", "20", "--num", "6", "--best-of", "2"),
        *("--metrics", "frechet_pixels,psnr,nmse"),
    ]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=890).stdout
    assert printed == (tmp_path / "twin" / "table.md").read_text()
    figures = json.loads((tmp_path / "twin" / "figures.json").read_text())
    results = figures["results"]
    for name in ("with-actions", "without-actions", "reconstructions"):
        assert results[name]["psnr"]["value"]["mean"] > 0
        assert results[name]["frechet_pixels"]["baselines"]["other real clips"]["mean"] > 0
    assert results["with-actions"]["psnr"]["label"] == "best of 2 samples"
    nats = results["likelihood"]
    assert nats["no actions"]["mean"] == pytest.approx(results["without-actions"]["nats_per_code"]["value"]["mean"])
    assert nats["true actions"]["mean"] == pytest.approx(results["with-actions"]["nats_per_code"]["value"]["mean"])
    assert nats["another clip's actions"]["mean"] != nats["true actions"]["mean"]
    assert results["samples"]["without-actions"]["mean"] > 0
    import imageio.v3 as iio

    assert np.asarray(iio.imread(tmp_path / "twin" / "samples.gif")).shape[0] == 4
    assert iio.imread(tmp_path / "twin" / "samples.png").shape[0] == 21 * 130

    ran: list[list[str]] = []
    monkeypatch.setattr(script, "run", lambda words, threads: ran.append(words[:2]))
    monkeypatch.setattr(sys, "argv", command[1:])
    assert script.main() == 0
    assert ran == [["train", "tokenizer"], ["train", "clip"], ["train", "clip"]], "the trainings keep their own results"
    assert json.loads((tmp_path / "twin" / "figures.json").read_text()) == figures
