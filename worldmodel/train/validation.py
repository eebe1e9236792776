"""Validation of a training loop: losses of fixed validation clips, and an image.

Shapes: B clips, L frames a clip, H W pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from worldmodel.data import ClipSampler, Dataset
from worldmodel.tokenizer import Tokenizer
from worldmodel.train.code_cache import CodeCache
from worldmodel.train.loop import Validate
from worldmodel.train.training_run import TrainingRun
from worldmodel.world.world_model import WorldModel

TOKENIZER_CLIPS = 16  # clips of the losses
PRIOR_CLIPS = 64  # more, since the loss of a prior may cover only the last frame of a clip
STRIP_FRAMES = 8  # frames in a row of the image
DREAMED_CLIPS = 2  # clips in the image of dreams


def validation_split(data: Dataset, length: int) -> str:
    """The validation split, or the training split where no validation episode is long enough."""
    validation = data.lengths[data.episodes_of("validation")]
    return "validation" if len(validation) and int(validation.max()) + 1 >= length else "train"


def tokenizer_validation(tokenizer: Tokenizer, data: Dataset, length: int, seed: int, run: TrainingRun) -> Validate:
    """Losses of reconstruction, and an image: first frames of clips above their reconstructions.

    Args:
        tokenizer: the tokenizer in training.
        data: the dataset.
        length: L.
        seed: seed of the choice of clips.
        run: the training.
    """
    runtime = run.runtime
    split = validation_split(data, length)
    batch = ClipSampler(data, length, TOKENIZER_CLIPS, split, seed).batch(0).torch(runtime.device)

    @torch.no_grad()
    def validate() -> tuple[dict[str, float], np.ndarray | None]:
        with runtime.autocast():
            losses = tokenizer.loss(batch.frames, batch.frame_valid)
        metrics = {name: float(value) for name, value in losses.items()}
        if not runtime.is_main:
            return metrics, None
        frames = batch.frames[:STRIP_FRAMES]
        reconstructed = tokenizer.decode(tokenizer.encode(frames))
        return metrics, tile_frames([frames[:, 0].cpu().numpy(), reconstructed[:, 0].cpu().numpy()])

    return validate


def prior_validation(world: WorldModel, cache: CodeCache, length: int, seed: int, run: TrainingRun) -> Validate:
    """Losses of prediction, and an image: clips above dreams that begin with their first frames.

    Args:
        world: the world whose prior is in training, with its starts.
        cache: the dataset as codes.
        length: L.
        seed: seed of the choice of clips, and of the dreams.
        run: the training; without `draw_dreams` there is no image.
    """
    data, runtime, draw = cache.data, run.runtime, run.draw_dreams
    episodes, starts = ClipSampler(data, length, PRIOR_CLIPS, validation_split(data, length), seed).locate(0)
    clip = cache.clip(episodes, starts, length, world.prior.predicts_whole_clips).to(runtime.device)
    shown = min(STRIP_FRAMES, int(data.lengths.max()) + 1)
    if world.prior.max_frames is not None:
        shown = min(shown, world.prior.max_frames - world.prior.window + 1)
    dreamed = ClipSampler(data, shown, DREAMED_CLIPS, validation_split(data, shown), seed).locate(0)

    @torch.no_grad()
    def validate() -> tuple[dict[str, float], np.ndarray | None]:
        with runtime.autocast():
            losses: dict[str, Any] = world.prior.loss(clip)
        metrics = {name: float(value) for name, value in losses.items()}
        if draw is None or not runtime.is_main or shown < 2:
            return metrics, None
        return metrics, draw(world, data, *dreamed, shown, seed)

    return validate


def tile_frames(rows: list[np.ndarray]) -> np.ndarray:
    """Frames as one image: rows of (L, H, W, 3) uint8 -> (rows * H, L * W, 3)."""
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
