"""Train a tokenizer directory from a dataset, a world directory from a tokenizer, and a world in one call."""

from __future__ import annotations

from pathlib import Path

import torch

from worldmodel.common.errors import UserError
from worldmodel.common.runtime import choose_runtime
from worldmodel.common.torch_state import isolated_torch_state
from worldmodel.data import Dataset
from worldmodel.tokenizer import make_tokenizer
from worldmodel.train.calibration import calibrate_hazards
from worldmodel.train.code_cache import CodeCache, encode_dataset
from worldmodel.train.mirror_augmentation import dataset_mirror
from worldmodel.train.quick_evaluation import evaluate_world
from worldmodel.train.training_config import PriorTraining, TokenizerTraining, WorldConfig, stage_config
from worldmodel.train.training_inputs import (
    Data,
    check_causal_clips,
    check_pixels,
    copy_weights,
    open_dataset,
    overfit_note,
    skipped_episodes,
    training_identity,
    with_budget,
)
from worldmodel.train.training_loops import check_data_fits, train_prior_stage, train_tokenizer_stage
from worldmodel.train.training_run import DrawDreams, Progress, TrainingRun
from worldmodel.train.validation import tokenizer_validation, validation_split
from worldmodel.train.workspace import Workspace, disk_errors
from worldmodel.train.world_facts import gather_starts, make_world_spec
from worldmodel.world.config_values import check_world_tokenizer
from worldmodel.world.hub import with_shipped_names
from worldmodel.world.tokenizer_storage import TOKENIZER, TokenizerCheckpoint
from worldmodel.world.world_model import WorldModel
from worldmodel.world.world_storage import WORLD, is_world, tokenizer_hash


@isolated_torch_state()
def train_world(
    data: Data,
    out: str | Path,
    config: WorldConfig,
    *,
    minutes: float | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    force: bool = False,
    init_from: str | Path | None = None,
    draw_dreams: DrawDreams | None = None,
) -> WorldModel:
    """Train a world. The same call continues a stopped training and returns the result of a finished one.

    Training works in the folder `<out>.training`. At the end `out` appears atomically, with the log in `training/`.

    Args:
        data: a dataset or its files.
        out: the world directory to make.
        config: sizes and loops, e.g. from `worldmodel.train.presets.PRESETS`.
        minutes: budget of both loops together, divided in proportion to their own `minutes`; None uses those.
        device: "auto", "cpu" or "cuda".
        progress: called as (stage, steps done, steps in total or 0, metrics).
        force: replace another world at `out`, or the files of another training.
        init_from: a world or tokenizer directory to take initial weights from; its sizes must equal the config's.
        draw_dreams: draws validation clips, as `dream.dream_clips.render_comparisons`; None logs no images of dreams.

    Returns:
        The world, in evaluation mode, as it was saved.

    Raises:
        UserError: `out` belongs to another training, or the data does not fit the config.
    """
    runtime = choose_runtime(device)
    data = open_dataset(data, config.crop)
    config = with_budget(config, minutes)
    check_world_tokenizer(config.tokenizer, config.prior.window)
    check_causal_clips(config)
    check_data_fits(data, config)
    identity = training_identity(config, data, init_from)
    torch.manual_seed(config.seed)
    world = WorldModel(config.tokenizer, config.prior, make_world_spec(data)).to(runtime.device)
    init_is_world = init_from is not None and is_world(with_shipped_names(init_from))
    if init_from is not None:
        source = TokenizerCheckpoint.from_pretrained(init_from, runtime.device)
        copy_weights(source.tokenizer, world.tokenizer, init_from)
        if init_is_world:
            copy_weights(WorldModel.from_pretrained(init_from, runtime.device).prior, world.prior, init_from)
    workspace = Workspace(Path(out).expanduser(), WORLD, force)
    with disk_errors(workspace.out):
        if workspace.begin(identity, runtime):
            run = TrainingRun(workspace.folder, runtime, progress, draw_dreams)
            tokenizer_config = stage_config(config, TokenizerTraining)
            train_tokenizer_stage(world.tokenizer, data, tokenizer_config, run, keep_statistics=init_from is not None)
            _fit_prior(world, data, stage_config(config, PriorTraining), run, keep_statistics=init_is_world)
            workspace.finish(world.save_pretrained, runtime)
    return WorldModel.from_pretrained(out, runtime.device)


@isolated_torch_state()
def train_tokenizer(
    data: Data,
    out: str | Path,
    config: TokenizerTraining,
    *,
    minutes: float | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    force: bool = False,
    init_from: str | Path | None = None,
) -> TokenizerCheckpoint:
    """Train a tokenizer alone: the first stage of `train_world`, with the same result.

    Args:
        data, minutes, device, progress: as for `train_world`.
        out: the tokenizer directory to make.
        config: size and loop; of a world's config the tokenizer's part is used.
        force: replace another tokenizer at `out`, or the files of another training.
        init_from: a tokenizer or world directory to take initial weights from; its sizes must equal the config's.

    Returns:
        The tokenizer, in evaluation mode, as it was saved.

    Raises:
        UserError: `out` belongs to another training, or the data does not fit the config.
    """
    runtime = choose_runtime(device)
    data = open_dataset(data, config.crop)
    config = with_budget(stage_config(config, TokenizerTraining), minutes)
    check_causal_clips(config)
    check_data_fits(data, config)
    identity = training_identity(config, data, init_from)
    torch.manual_seed(config.seed)
    header, length = data.header, config.train_tokenizer.clip_length
    tokenizer = make_tokenizer(config.tokenizer, header.pixels.frame_shape).to(runtime.device)
    if init_from is not None:
        source = TokenizerCheckpoint.from_pretrained(init_from, runtime.device)
        copy_weights(source.tokenizer, tokenizer, init_from)
    workspace = Workspace(Path(out).expanduser(), TOKENIZER, force)
    with disk_errors(workspace.out):
        if workspace.begin(identity, runtime):
            run = TrainingRun(workspace.folder, runtime, progress)
            train_tokenizer_stage(tokenizer, data, config, run, keep_statistics=init_from is not None)
            metrics, _ = tokenizer_validation(tokenizer, data, length, config.seed, run)()
            report = {"split": validation_split(data, length), **{name: round(x, 4) for name, x in metrics.items()}}
            report |= skipped_episodes(data, length) | overfit_note(config)
            checkpoint = TokenizerCheckpoint(tokenizer, header.env, header.pixels, data.fingerprint, report)
            workspace.finish(checkpoint.save_pretrained, runtime)
    return TokenizerCheckpoint.from_pretrained(out, runtime.device)


@isolated_torch_state()
def train_prior(
    tokenizer: str | Path,
    data: Data,
    out: str | Path,
    config: PriorTraining,
    *,
    minutes: float | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    force: bool = False,
    init_from: str | Path | None = None,
    draw_dreams: DrawDreams | None = None,
) -> WorldModel:
    """Train a prior on a tokenizer's codes: the second stage of `train_world`, with the same result.

    Args:
        tokenizer: a tokenizer directory, or a world directory, whose tokenizer is used.
        data, out, minutes, device, progress, force, draw_dreams: as for `train_world`.
        config: size and loop; of a world's config the prior's part is used.
        init_from: a world directory to take the prior's initial weights from; its sizes must equal the config's.

    Returns:
        The world, in evaluation mode, as it was saved.

    Raises:
        UserError: `out` belongs to another training, the tokenizer is of other frames, or the data does not fit the
            config.
    """
    runtime = choose_runtime(device)
    config = with_budget(stage_config(config, PriorTraining), minutes)
    source = TokenizerCheckpoint.from_pretrained(tokenizer, runtime.device)
    data = data if isinstance(data, Dataset) else Dataset.open_cropped(data, source.pixels)
    check_world_tokenizer(source.tokenizer.config, config.prior.window)
    check_pixels(source, tokenizer, data)
    check_data_fits(data, config)
    if config.mirror:
        dataset_mirror(data, source.tokenizer.config.encoded)
    codes_hash = tokenizer_hash(source.tokenizer)
    identity = {**training_identity(config, data, init_from), "tokenizer": codes_hash}
    torch.manual_seed(config.seed)
    world = WorldModel(source.tokenizer.config, config.prior, make_world_spec(data)).to(runtime.device)
    copy_weights(source.tokenizer, world.tokenizer, tokenizer)
    if init_from is not None:
        other = WorldModel.from_pretrained(init_from, runtime.device)
        if tokenizer_hash(other.tokenizer) != codes_hash:
            raise UserError(
                f"init_from={init_from}: its prior was trained on the codes of another tokenizer than {tokenizer}; "
                "leave it out, or give its own tokenizer."
            )
        copy_weights(other.prior, world.prior, init_from)
    workspace = Workspace(Path(out).expanduser(), WORLD, force)
    with disk_errors(workspace.out):
        if workspace.begin(identity, runtime):
            run = TrainingRun(workspace.folder, runtime, progress, draw_dreams)
            _fit_prior(world.eval(), data, config, run, keep_statistics=init_from is not None)
            workspace.finish(world.save_pretrained, runtime)
    return WorldModel.from_pretrained(out, runtime.device)


def _fit_prior(
    world: WorldModel, data: Dataset, config: PriorTraining, run: TrainingRun, keep_statistics: bool
) -> None:
    """Encode the dataset, gather starts, train the prior; then, in the main process, calibrate and evaluate it."""
    tokenizer = world.tokenizer
    name = f"codes-{tokenizer_hash(tokenizer)[:16]}"
    mirror = dataset_mirror(data, tokenizer.config.encoded) if config.mirror else None
    with run.runtime.main_first():
        codes = encode_dataset(data, tokenizer, run.folder / f"{name}.npy")
        flipped = encode_dataset(data, tokenizer, run.folder / f"{name}-mirrored.npy", flipped=True) if mirror else None
    cache = CodeCache(data, codes, tokenizer.config.num_codes, config.prior.status, flipped, mirror)
    world.starts = gather_starts(world, cache, config.num_starts, config.seed).to(run.runtime.device)
    train_prior_stage(world, cache, config, run, keep_statistics)
    if run.runtime.is_main:
        calibrate_hazards(world, cache)
        metrics = evaluate_world(world, data, cache, config.seed)
        skipped = skipped_episodes(data, config.train_prior.clip_length)
        world.report = {**metrics, **skipped, **overfit_note(config)}
