"""`worldmodel ablate`: the rows of the paper's tables, ordinary training directories, intervals over seeds."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from square import record_square

from worldmodel.cli import ablate_command
from worldmodel.cli import command_line as cli
from worldmodel.cli.ablate_command import Ablate, ablate
from worldmodel.cli.ablation_report import NOT_RECORDED, NOT_SEPARATED, format_table, interval, table_plot, verdicts
from worldmodel.common.errors import UserError
from worldmodel.data import Dataset
from worldmodel.metrics.clip_sources import recorded_clips
from worldmodel.tokenizer import PAPER_BAIR
from worldmodel.train.ablation_tables import SMALL_ABLATION, TABLES, equal_parameter_width, num_parameters, table_rows
from worldmodel.train.clip_training_config import ClipTraining
from worldmodel.world.clip_model import ClipModel
from worldmodel.world.tokenizer_storage import TokenizerCheckpoint
from worldmodel.world.world_storage import tokenizer_hash

FRAME = (64, 64, 3)


def few_steps(training: ClipTraining) -> ClipTraining:
    loops = {
        name: replace(getattr(training, name), num_steps=2, log_every=2, validations=0)
        for name in ("train_tokenizer", "train_prior")
    }
    return replace(training, **loops)


TINY = few_steps(Ablate.PRESETS["tiny-clip"].training)
TINY = replace(TINY, tokenizer=replace(TINY.tokenizer, num_heads=1))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


# -- rows ----------------------------------------------------------------------------------------------------


def test_each_row_changes_only_what_its_table_varies() -> None:
    values = {
        "table3": [True, False, False],
        "table4": [2, 4, 8, 16],
        "table6": [256, 1024, 4096],
        "table7": [1, 2, 4, 8],
    }
    for table in TABLES:
        rows = table_rows(table, SMALL_ABLATION, FRAME)
        assert len({row.folder for row in rows}) == len({row.label for row in rows}) == len(rows)
        for row in rows:
            part, field = TABLES[table].varied[0].split(".")
            restored = {part: getattr(SMALL_ABLATION, part)}
            if row.folder != "no-attention-equal-parameters":
                changed = getattr(row.training, part)
                names = [name.split(".")[1] for name in TABLES[table].varied]
                base = {name: getattr(restored[part], name) for name in names}
                assert replace(changed, **base) == restored[part]
            assert replace(row.training, **restored) == SMALL_ABLATION
        if table in values:
            assert [getattr(getattr(row.training, part), field) for row in rows] == values[table]
    shapes = [row.label for row in table_rows("table5", SMALL_ABLATION, FRAME)]
    assert len(shapes) == 10
    assert {"4 x 16 x 16", "8 x 32 x 32", "1 x 32 x 32", "16 x 16 x 16"} <= set(shapes)


def test_figures_of_the_paper_are_those_on_record() -> None:
    paper = {table: [row.paper for row in table_rows(table, SMALL_ABLATION, FRAME)] for table in TABLES}
    assert paper["table3"] == [{"NMSE": 0.0033}, {"NMSE": 0.0041}, {}]
    assert [row["bits/dim"] for row in paper["table4"]] == [2.84, 2.52, 2.39, 2.05]
    assert [row["FVD"] for row in paper["table4"]] == [120.4, 110.0, 103.3, 103.6]
    assert not any(row for table in ("table5", "table6", "table7") for row in paper[table])


@pytest.mark.parametrize("config", [SMALL_ABLATION.tokenizer, PAPER_BAIR], ids=["small", "paper"])
def test_a_row_without_attention_has_the_width_of_equal_parameters(config: Any) -> None:
    target, off = num_parameters(config, FRAME), replace(config, axial_attention=False)
    width = equal_parameter_width(off, target, FRAME)
    assert width > config.width
    distance = [abs(num_parameters(replace(off, width=w), FRAME) - target) for w in (width - 1, width, width + 1)]
    assert min(distance) == distance[1]
    assert distance[1] < 0.03 * target


def test_rows_that_cannot_be_trained_are_refused() -> None:
    for strides, message in (("4", "wanted TIMExSPACE"), ("4x3", "no multiple"), ("4x0", "no multiple")):
        with pytest.raises(UserError, match=message):
            table_rows("table5", SMALL_ABLATION, FRAME, [strides])
    with pytest.raises(UserError, match="wanted a power of two"):
        table_rows("table5", SMALL_ABLATION, (48, 48, 3), ["3x4"])
    with pytest.raises(UserError, match="Did you mean 'table4'"):
        table_rows("tabel4", SMALL_ABLATION, FRAME)
    frames = replace(SMALL_ABLATION, tokenizer=replace(SMALL_ABLATION.tokenizer, time="frame", time_stride=1))
    with pytest.raises(UserError, match="tokenizers of whole clips"):
        table_rows("table6", frames, FRAME)
    for wrong in ({"seeds": ()}, {"seeds": (1, 1)}, {"seeds": (-1,)}, {"clips": 0}, {"budget": 0.0}):
        with pytest.raises(UserError, match="wanted"):
            Ablate("table3", (Path("x"),), Path("y"), **wrong)  # type: ignore[arg-type]


# -- intervals -----------------------------------------------------------------------------------------------


def test_intervals_are_those_of_student() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert found["mean"] == 2
    assert found["high"] - 2 == pytest.approx(2 - found["low"]) == pytest.approx(4.303 / math.sqrt(3))
    assert interval([1.0, 3.0])["high"] == pytest.approx(2 + 12.706 * math.sqrt(2) / math.sqrt(2))
    assert interval([5.0])["low"] is None


def test_rows_whose_intervals_overlap_are_not_separated() -> None:
    figures = [interval(x) for x in ([1.0, 1.1, 1.2], [2.0, 2.1, 2.2], [1.3, 1.4, 1.5])]
    assert verdicts([*figures, None]) == ["lowest mean", "higher than the lowest", NOT_SEPARATED, ""]
    assert verdicts([interval([1.0]), interval([2.0])]) == ["lowest mean", "one seed, no interval"]
    assert verdicts([figures[0], None]) == ["", ""], "nothing to compare with"


# -- runs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def square(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ablate") / "square.h5"
    record_square(path, 40).close()
    return path


@pytest.fixture(scope="module")
def finished(square: Path) -> Ablate:
    """A finished table 3 of two seeds."""
    config = Ablate("table3", (square,), square.parent / "table3", seeds=(0, 1), training=TINY, clips=8)
    ablate(config)
    return config


def test_every_run_is_an_ordinary_tokenizer_directory(finished: Ablate) -> None:
    folders = ("attention", "no-attention", "no-attention-equal-parameters")
    for seed in (0, 1):
        for folder in folders:
            info = read(finished.out / f"{folder}-seed-{seed}" / "run.json")
            assert info["verb"] == "train tokenizer"
            assert info["config"]["training"]["seed"] == seed
            tokenizer = TokenizerCheckpoint.from_pretrained(finished.out / f"{folder}-seed-{seed}").tokenizer
            assert tokenizer.config.axial_attention == (folder == "attention")
    assert not list(finished.out.rglob("*.training"))


def test_the_table_has_the_error_of_the_saved_tokenizers(finished: Ablate) -> None:
    result = read(finished.out / "table.json")
    (row,) = [row for row in result["rows"] if row["folder"] == "no-attention"]
    values = []
    with Dataset(finished.data[0]) as data:
        real = torch.cat([batch.frames for batch in recorded_clips(data, 4, 8, "validation")])
    for seed in (0, 1):
        tokenizer = TokenizerCheckpoint.from_pretrained(finished.out / f"no-attention-seed-{seed}").tokenizer
        decoded = tokenizer.decode(tokenizer.encode(real))
        x, y = real.numpy().astype(float), decoded.numpy().astype(float)
        values.append(np.square(x - y).mean() / x.var())
    assert row["figures"]["nmse"]["values"] == pytest.approx(values)
    assert row["figures"]["nmse"]["mean"] == pytest.approx(np.mean(values))
    assert row["figures"]["steps"]["mean"] == 2
    assert row["figures"]["codes"]["mean"] == 2 * 2 * 2
    assert result["clips"] == len(real)


def test_the_text_states_budget_sizes_and_the_papers_figures(finished: Ablate) -> None:
    text = (finished.out / "table.txt").read_text()
    assert max(map(len, text.splitlines()[:8])) <= 120
    for words in ("budget of a run: 2 steps", "tokenizer.width 24 (240)", "NMSE 0.0041", NOT_RECORDED, "seeds 0, 1"):
        assert words in text
    assert text.strip() == format_table(read(finished.out / "table.json"))
    assert (finished.out / "table.png").read_bytes() == table_plot(read(finished.out / "table.json"))


def test_the_command_continues_at_the_run_that_was_stopped(finished: Ablate, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_train_tokenizer", "tokenizer_figures"):
        monkeypatch.setattr(ablate_command, name, lambda *_: pytest.fail("repeats a finished run"))
    before = (finished.out / "table.json").stat().st_mtime_ns
    ablate(finished)
    assert (finished.out / "table.json").stat().st_mtime_ns == before
    trained: list[str] = []

    def stop(config: Ablate, training: ClipTraining, out: Path) -> None:
        trained.append(out.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(ablate_command, "_train_tokenizer", stop)
    with pytest.raises(KeyboardInterrupt):
        ablate(replace(finished, seeds=(0, 1, 2)))
    assert trained == ["attention-seed-2"], "another seed adds runs"


def test_another_table_is_refused_and_a_mistake_leaves_the_directory_free(finished: Ablate, square: Path) -> None:
    with pytest.raises(UserError, match="table is 'table6', was 'table3'"):
        ablate(replace(finished, table="table6"))
    wrong = replace(finished, out=square.parent / "wrong", training=replace(TINY, crop=(0, 12, 0, 16)))
    with pytest.raises(UserError, match="multiples"):
        ablate(wrong)
    assert not (wrong.out / "run.json").exists()


def test_priors_are_compared_on_one_tokenizer(square: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Ablate("table4", (square,), square.parent / "table4", seeds=(3,), training=TINY, clips=8, json=True)
    ablate(config)
    result = json.loads(capsys.readouterr().out)
    hashes, layers = set(), []
    for row in result["rows"]:
        model = ClipModel.from_pretrained(config.out / f"{row['folder']}-seed-3")
        hashes.add(tokenizer_hash(model.tokenizer))
        layers.append(model.prior.config.num_layers)
        figures = {name: figure["mean"] for name, figure in row["figures"].items()}
        assert figures["bits_per_code"] == pytest.approx(figures["nats_per_code"] / math.log(2))
        ratio = figures["codes"] / (4 * 16 * 16 * 3)  # codes to numbers of a clip
        assert figures["bits_per_dim"] == pytest.approx(figures["bits_per_code"] * ratio)
        assert row["verdict"] in ("lowest mean", "one seed, no interval")
    assert layers == [2, 4, 8, 16]
    assert hashes == {tokenizer_hash(TokenizerCheckpoint.from_pretrained(config.out / "tokenizer").tokenizer)}
    assert result["budget"] == "2 steps, after 2 steps for the shared tokenizer"
    assert "prior.width 32 (512)" in result["sizes"]


def test_the_budget_replaces_the_length_of_both_loops() -> None:
    config = cli.parse(["ablate", "table5", "--preset", "tiny-clip", "--data", "x.h5", "--out", "y", "--budget", "3"])[
        1
    ]
    loops = (config.base.train_tokenizer, config.base.train_prior)
    assert [(loop.minutes, loop.num_steps) for loop in loops] == [(3, 0), (3, 0)]
    assert [row.folder for row in table_rows("table5", config.base, (16, 16, 3), config.strides)] == [
        "latents-2x2x2",
        "latents-4x2x2",
    ]
    flags = ["ablate", "table7", "--data", "x.h5", "--out", "y", "--tokenizer.width", "48", "--seeds", "4", "5"]
    config = cli.parse(flags)[1]
    assert config.seeds == (4, 5)
    assert config.base == replace(SMALL_ABLATION, tokenizer=replace(SMALL_ABLATION.tokenizer, width=48))
