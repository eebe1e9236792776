"""Train the directory of a clip model from a dataset: a tokenizer, then a clip prior on its codes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from worldmodel.common.runtime import choose_runtime
from worldmodel.common.torch_state import isolated_torch_state
from worldmodel.data import Dataset
from worldmodel.train.clip_batches import ClipBatches, check_labels
from worldmodel.train.clip_stage import evaluate_clip_model, train_clip_stage
from worldmodel.train.clip_training_config import ClipTraining
from worldmodel.train.training_config import TokenizerTraining, stage_config
from worldmodel.train.training_inputs import (
    Data,
    check_pixels,
    copy_weights,
    open_dataset,
    overfit_note,
    skipped_episodes,
    training_identity,
    with_budget,
)
from worldmodel.train.training_loops import check_data_fits, clip_sampler, train_tokenizer_stage
from worldmodel.train.training_run import Progress, TrainingRun
from worldmodel.train.workspace import Workspace, disk_errors
from worldmodel.train.world_facts import make_world_spec
from worldmodel.world.clip_directory import CLIP_MODEL
from worldmodel.world.clip_model import ClipModel
from worldmodel.world.tokenizer_storage import TokenizerCheckpoint
from worldmodel.world.world_storage import tokenizer_hash


@isolated_torch_state()
def train_clip(
    data: Data,
    out: str | Path,
    config: ClipTraining,
    *,
    tokenizer: str | Path | None = None,
    minutes: float | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    force: bool = False,
) -> ClipModel:
    """Train a clip model. The same call continues a stopped training and returns the result of a finished one.

    Training works in the folder `<out>.training`. At the end `out` appears atomically, with the log in `training/`.

    Args:
        data: a dataset or its files.
        out: the directory to make.
        config: sizes and loops, e.g. from `worldmodel.train.clip_presets.CLIP_PRESETS`.
        tokenizer: a tokenizer directory, or a world directory, whose tokenizer is used; config.tokenizer and
            config.train_tokenizer are then not used. None trains a tokenizer first.
        minutes: budget of both loops together, divided in proportion to their own `minutes`; None uses those.
        device: "auto", "cpu" or "cuda".
        progress: called as (stage, steps done, steps in total or 0, metrics).
        force: replace another clip model at `out`, or the files of another training.

    Returns:
        The model, in evaluation mode, as it was saved.

    Raises:
        UserError: `out` belongs to another training, the tokenizer is of other frames, or the data does not fit the
            config.
    """
    runtime = choose_runtime(device)
    config = _with_budget(config, minutes, has_tokenizer=tokenizer is not None)
    source = None if tokenizer is None else TokenizerCheckpoint.from_pretrained(tokenizer, runtime.device)
    data = _open_checked(data, config, tokenizer, source)
    identity = training_identity(config, data, None)
    torch.manual_seed(config.seed)
    sizes = config.tokenizer if source is None else source.tokenizer.config
    class_names = check_labels(data, config.prior.class_label)
    model = ClipModel(sizes, config.prior, make_world_spec(data), class_names).to(runtime.device)
    if source is not None and tokenizer is not None:
        identity["tokenizer"] = tokenizer_hash(source.tokenizer)
        copy_weights(source.tokenizer, model.tokenizer, tokenizer)
    workspace = Workspace(Path(out).expanduser(), CLIP_MODEL, force)
    with disk_errors(workspace.out):
        if workspace.begin(identity, runtime):
            run = TrainingRun(workspace.folder, runtime, progress)
            if source is None:
                train_tokenizer_stage(model.tokenizer, data, stage_config(config, TokenizerTraining), run)
            _fit_prior(model.eval(), data, config, run)
            workspace.finish(model.save_pretrained, runtime)
    return ClipModel.from_pretrained(out, runtime.device)


def _with_budget(config: ClipTraining, minutes: float | None, has_tokenizer: bool) -> ClipTraining:
    """Divide a budget between the loops; the prior gets all of it where the tokenizer exists."""
    budgeted = with_budget(config, minutes)
    if minutes is None or not has_tokenizer:
        return budgeted
    return replace(budgeted, train_prior=replace(budgeted.train_prior, minutes=minutes))


def _open_checked(
    data: Data, config: ClipTraining, tokenizer: str | Path | None, source: TokenizerCheckpoint | None
) -> Dataset:
    """The dataset, with the frames of the given tokenizer if there is one.

    Raises:
        UserError: other frames than the tokenizer's, or no episode is long enough for the clips of a loop.
    """
    if source is not None and tokenizer is not None:
        data = data if isinstance(data, Dataset) else Dataset.open_cropped(data, source.pixels)
        check_pixels(source, tokenizer, data)
    else:
        data = open_dataset(data, config.crop)
        check_data_fits(data, config)
    clip_sampler(data, config.train_prior, config.seed)
    return data


def _fit_prior(model: ClipModel, data: Dataset, config: ClipTraining, run: TrainingRun) -> None:
    """Train the prior; then, in the main process, evaluate the model."""
    batches = ClipBatches(model, data)
    train_clip_stage(model, batches, config, run)
    if run.runtime.is_main:
        figures = evaluate_clip_model(model, batches, config.seed)
        model.report = {**figures, **skipped_episodes(data, config.prior.num_frames), **overfit_note(config)}
