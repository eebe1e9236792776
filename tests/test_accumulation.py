"""`accumulation_steps`: a batch that is computed in parts trains as one that is computed at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from square import record_square, short
from torch import nn

from worldmodel.common.errors import UserError
from worldmodel.common.runtime import Runtime
from worldmodel.data import Dataset
from worldmodel.tokenizer.codebook import Codebook
from worldmodel.train import train_prior, train_tokenizer
from worldmodel.train.clip_presets import TINY_CLIP
from worldmodel.train.clip_trainer import train_clip
from worldmodel.train.loop import Loop
from worldmodel.train.training_config import LoopConfig, TokenizerTraining, WorldConfig, stage_config
from worldmodel.train.training_run import TrainingRun


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return record_square(tmp_path_factory.mktemp("data") / "square.h5", 40, noise=25)


@pytest.fixture(scope="module")
def tokenizer(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tokenizer") / "codes"
    train_tokenizer(data, out, short())
    return out


def in_parts(config: Any, num_parts: int, **changes: Any) -> Any:
    """A config whose loops take six steps of batches in so many parts, and average no weights."""
    loop = {"accumulation_steps": num_parts, "num_steps": 6, "ema_decay": 0.0, "warmup_steps": 1, **changes}
    tokenizer = replace(config.train_tokenizer, **loop)
    return replace(config, train_tokenizer=tokenizer, train_prior=replace(config.train_prior, **loop))


def assert_close(a: nn.Module, b: nn.Module, atol: float) -> None:
    for name, tensor in a.state_dict().items():
        torch.testing.assert_close(b.state_dict()[name], tensor, rtol=1e-4, atol=atol, msg=name)


@pytest.mark.parametrize("num_parts", [1, 3, 5])
def test_parts_cover_the_clips_and_their_gradients_add_up(num_parts: int, tmp_path: Path) -> None:
    config = LoopConfig(num_steps=1, batch_size=5, accumulation_steps=num_parts, learning_rate=0.0, validations=0)
    model, x = nn.Linear(3, 1), torch.randn(5, 3)
    run = TrainingRun(tmp_path, Runtime(torch.device("cpu"), torch.float32))
    loop = Loop("test", model, config, 0, run, lambda _: None, lambda: ({}, None))  # type: ignore[arg-type,return-value]
    for _ in loop.steps():
        parts = list(loop.parts(np.array([1, 2, 0, 3, 1])))
        assert [i for rows, _ in parts for i in range(5)[rows]] == list(range(5))
        assert len(parts) == num_parts
        for rows, share in parts:
            weights = torch.tensor([1.0, 2, 0, 3, 1])[rows]
            mean = (model(x[rows]).square()[:, 0] * weights).sum() / weights.sum().clamp_min(1)
            loop.backward({"loss": mean}, share)
        assert model.weight.grad is not None
        found = model.weight.grad.clone()
        loop.update()
    loss = (model(x).square()[:, 0] * torch.tensor([1.0, 2, 0, 3, 1])).sum() / 7
    torch.testing.assert_close(found, torch.autograd.grad(loss, model.weight)[0])
    torch.testing.assert_close(loop._metrics["loss"], loss.detach())
    assert model.weight.grad is None, "the next step begins without gradients"


def test_a_codebook_learns_from_all_parts_at_once() -> None:
    torch.manual_seed(0)
    one, split = (Codebook(4, 6, decay=0.5, restart_below=0.0) for _ in range(2))
    vectors = torch.randn(60, 6)
    for codebook in (one, split):
        torch.manual_seed(1)
        codebook(vectors)  # initialises
    with split.accumulating(3):
        for _ in range(2):
            one(vectors)
            before = split.embeddings.clone()
            for part in vectors.split(20):
                assert torch.equal(split.embeddings, before), "unchanged within a step"
                split(part)
            assert not torch.equal(split.embeddings, before)
            for name, tensor in one.state_dict().items():
                torch.testing.assert_close(split.state_dict()[name], tensor, msg=name)
        split(vectors[:20])  # the first part of a step that is interrupted
    one(vectors)
    split(vectors)
    torch.testing.assert_close(split.embeddings, one.embeddings)


def test_a_tokenizer_in_parts_is_the_same(data: Dataset, tokenizer: Path, tmp_path: Path) -> None:
    """After one step; later ones differ where rounding decides between codes that are nearly as close."""
    config: WorldConfig = short()
    config = replace(config, tokenizer=replace(config.tokenizer, restart_below=0.0))
    trained = [
        train_tokenizer(data, tmp_path / str(n), in_parts(config, n, num_steps=1), init_from=tokenizer).tokenizer
        for n in (1, 4)
    ]
    assert_close(*trained, atol=2e-6)


def test_a_clip_model_in_parts_is_the_same(data: Dataset, tmp_path: Path) -> None:
    config = replace(TINY_CLIP, prior=replace(TINY_CLIP.prior, class_label=False))
    train_tokenizer(data, tmp_path / "codes", stage_config(in_parts(config, 2), TokenizerTraining))
    seen: dict[int, list[list[float]]] = {1: [], 3: []}
    for n, figures in seen.items():

        def keep(stage: str, done: int, total: int, losses: dict[str, float], to: Any = figures) -> None:
            to.append([losses["loss"], losses["gradient_norm"]])

        parts = in_parts(config, n, log_every=1)
        train_clip(data, tmp_path / str(n), parts, tokenizer=tmp_path / "codes", progress=keep)
    assert len(seen[1]) == 6
    np.testing.assert_allclose(seen[3], seen[1], rtol=1e-3)


def test_a_world_in_parts_is_nearly_the_same(data: Dataset, tokenizer: Path, tmp_path: Path) -> None:
    """Its losses are weighted means, so that a mean of parts differs a little."""
    config = short()
    config = replace(config, prior=replace(config.prior, history_noise=0.0, history_loss=0.0))
    seen: dict[int, list[float]] = {1: [], 4: []}
    for n, figures in seen.items():

        def keep(stage: str, done: int, total: int, losses: dict[str, float], to: Any = figures) -> None:
            to.append(losses["codes"])

        train_prior(tokenizer, data, tmp_path / str(n), in_parts(config, n, log_every=1), progress=keep)
    assert len(seen[1]) == 6
    assert seen[1] != seen[4]
    assert seen[1] == pytest.approx(seen[4], rel=0.1)


def test_more_parts_than_clips_are_refused(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="accumulation_steps=3: wanted 1 to batch_size=2"):
        LoopConfig(batch_size=2, accumulation_steps=3)
    config = LoopConfig(num_steps=1, batch_size=4, accumulation_steps=3)
    run = TrainingRun(tmp_path, Runtime(torch.device("cpu"), torch.float32))
    loop = Loop("test", nn.Linear(1, 1), config, 0, run, lambda _: None, lambda: ({}, None))  # type: ignore[arg-type,return-value]
    with pytest.raises(UserError, match="a process has 2 clips of a step"):
        list(loop.parts(np.ones(2)))
