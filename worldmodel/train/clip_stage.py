"""The training loop of a clip prior, its validation, and the figures that are measured at its end.

Shapes: B clips, L frames a clip, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from worldmodel.common.processes import process_rows
from worldmodel.data import ClipSampler
from worldmodel.train.clip_batches import ClipBatches
from worldmodel.train.clip_training_config import ClipTraining
from worldmodel.train.loop import Loop, Validate
from worldmodel.train.training_loops import clip_sampler
from worldmodel.train.training_run import TrainingRun
from worldmodel.train.validation import tile_frames, validation_split
from worldmodel.world.clip_model import ClipModel

VALIDATION_CLIPS = 32
SAMPLED_CLIPS = 2  # in the image of a validation
EVALUATED_CLIPS = 192
BATCH_SIZE = 16  # clips
LN2 = math.log(2)


def train_clip_stage(model: ClipModel, batches: ClipBatches, config: ClipTraining, run: TrainingRun) -> None:
    """Train the prior of a clip model on the tokenizer's codes; each process takes its part of the clips.

    Args:
        model: its prior is trained in place.
        batches: reads and encodes clips with this model.
        config: settings of the loop.
        run: where the training works and how it reports.
    """
    for _ in clip_steps(model, batches, config, run):
        pass


def clip_steps(model: ClipModel, batches: ClipBatches, config: ClipTraining, run: TrainingRun) -> Iterator[int]:
    """The steps of `train_clip_stage`: yields the number of each step after its update of the weights."""
    settings = config.train_prior
    sampler = clip_sampler(batches.data, settings, config.seed)
    counts = batches.code_counts(config.seed)
    torch.manual_seed(config.seed)
    model.prior.init_from_codes(model.tokenizer.codebook.embeddings, counts)
    model.prior.transformer.activation_checkpointing = config.activation_checkpointing

    def locate(step: int) -> tuple[np.ndarray, np.ndarray]:
        return sampler.locate(0 if config.overfit_one_batch else step)

    loop = Loop("prior", model.prior, settings, config.seed, run, locate, clip_validation(model, batches, config, run))
    own = process_rows(settings.batch_size)
    for step in loop.steps():
        episodes, starts = (clips[own] for clips in locate(step))
        has_loss = np.asarray(sampler.frame_valid(episodes, starts).all(1))  # (B,)
        for rows, share in loop.parts(has_loss):
            clips = batches.gather(episodes[rows], starts[rows])
            with run.runtime.autocast():
                losses = model.prior.loss(clips.codes, clips.conditioning, clips.has_loss)
            loop.backward(losses, share)
        loop.update()
        yield step


def clip_validation(model: ClipModel, batches: ClipBatches, config: ClipTraining, run: TrainingRun) -> Validate:
    """The loss of fixed validation clips, and an image: recorded clips above clips sampled with their conditions."""
    length = config.prior.num_frames
    split = validation_split(batches.data, length)
    located = ClipSampler(batches.data, length, VALIDATION_CLIPS, split, config.seed).locate(0)

    @torch.no_grad()
    def validate() -> tuple[dict[str, float], np.ndarray | None]:
        clips = batches.gather(*located)
        with run.runtime.autocast():
            losses = model.prior.loss(clips.codes, clips.conditioning, clips.has_loss)
        metrics = {name: float(value) for name, value in losses.items()}
        if not run.runtime.is_main:
            return metrics, None
        shown = clips.conditioning.select(slice(SAMPLED_CLIPS))
        sampled = model.sample(SAMPLED_CLIPS, shown.class_index, shown.actions, config.seed, frames=shown.frames)
        pairs = zip(clips.frames, sampled, strict=False)
        return metrics, tile_frames([frames.cpu().numpy() for pair in pairs for frames in pair])

    return validate


@torch.no_grad()
def evaluate_clip_model(model: ClipModel, batches: ClipBatches, seed: int) -> dict[str, Any]:
    """Measure a clip model on the validation split; on the training split where that has no clip.

    Returns:
        `split`; `clips`, their number; `psnr` of reconstructions in dB, mean over frames; `nats_per_code` and
        `bits_per_code`; for a model with conditions also `nats_per_code_shuffled`, with those of another clip.
    """
    length, (h, w) = model.prior.config.num_frames, model.tokenizer.grid
    split = validation_split(batches.data, length)
    sampler = ClipSampler(batches.data, length, 1, split, seed)
    count = min(EVALUATED_CLIPS, sampler.num_clips)
    episodes, starts = (np.concatenate(x) for x in zip(*(sampler.locate(i) for i in range(count)), strict=True))
    psnrs, nats, shuffled = [], [], []
    for i in range(0, count, BATCH_SIZE):
        clips = batches.gather(episodes[i : i + BATCH_SIZE], starts[i : i + BATCH_SIZE])
        index = torch.nonzero(clips.has_loss)[:, 0]
        codes, conditioning = clips.codes[index], clips.conditioning.select(index)
        decoded = model.tokenizer.decode(codes)
        mse = ((clips.frames[index].float() - decoded.float()) / 255).square().mean((2, 3, 4))  # (B, L)
        psnrs.append(-10 * mse.clamp_min(1e-10).log10().flatten())
        nats.append(-model.prior.log_prob(codes, conditioning))
        other = conditioning.select(torch.arange(len(index), device=index.device).roll(1))
        shuffled.append(-model.prior.log_prob(codes, other))
    num_codes = model.prior.num_steps * h * w  # of a clip
    per_code = float(torch.cat(nats).mean()) / num_codes
    figures = {"psnr": float(torch.cat(psnrs).mean()), "nats_per_code": per_code, "bits_per_code": per_code / LN2}
    if not conditioning.is_empty:
        figures["nats_per_code_shuffled"] = float(torch.cat(shuffled).mean()) / num_codes
    return {"split": split, "clips": sum(map(len, nats)), **{name: round(x, 4) for name, x in figures.items()}}
