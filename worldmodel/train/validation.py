"""What a loop looks at now and then: losses of fixed validation clips, and a strip of pictures.

Shapes: B clips, L frames a clip, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from worldmodel.common.runtime import Runtime
from worldmodel.data import ClipSampler, Dataset
from worldmodel.tokenizer import Tokenizer
from worldmodel.train.code_cache import CodeCache
from worldmodel.train.loop import Check
from worldmodel.world.world_model import WorldModel

CLIPS = 16  # whose losses are measured
PRIOR_CLIPS = 64  # the same for a prior, of which a clip may teach but one frame
SHOWN = 8  # frames in a strip
DREAMS = 2  # clips in a strip of dreams

# world, data, episodes (n,), first frames (n,), frames of a clip, seed -> a picture (H, W, 3) uint8
DrawDreams = Callable[[WorldModel, Dataset, np.ndarray, np.ndarray, int, int], np.ndarray]


def split_for(data: Dataset, length: int) -> str:
    """The validation split, or the training split where no validation episode has so many frames."""
    validation = data.lengths[data.episodes_of("validation")]
    return "validation" if len(validation) and int(validation.max()) + 1 >= length else "train"


def check_tokenizer(tokenizer: Tokenizer, data: Dataset, length: int, seed: int, runtime: Runtime) -> Check:
    """Losses of reconstruction; the first frames of clips above what is left of them.

    Args:
        tokenizer: what is trained.
        data: the dataset.
        length: L.
        seed: of the choice of clips.
        runtime: where to compute.
    """
    batch = ClipSampler(data, length, CLIPS, split_for(data, length), seed).batch(0).torch(runtime.device)

    @torch.no_grad()
    def check() -> tuple[dict[str, float], np.ndarray | None]:
        with runtime.autocast():
            losses = tokenizer.loss(batch.frames, batch.frame_valid)
        figures = {name: float(value) for name, value in losses.items()}
        if not runtime.is_main:
            return figures, None
        real = batch.frames[:SHOWN]
        made = tokenizer.decode(tokenizer.encode(real))
        return figures, strip([real[:, 0].cpu().numpy(), made[:, 0].cpu().numpy()])

    return check


def check_prior(
    world: WorldModel, cache: CodeCache, length: int, seed: int, runtime: Runtime, draw: DrawDreams | None = None
) -> Check:
    """Losses of prediction, of the frames that are learned; clips above what is dreamed from their first frames.

    Args:
        world: the world whose prior is trained, with its starts.
        cache: the dataset as codes.
        length: L.
        seed: of the choice of clips, and of the dreams.
        runtime: where to compute.
        draw: draws dreams of validation clips; None logs no pictures.
    """
    data = cache.data
    places = ClipSampler(data, length, PRIOR_CLIPS, split_for(data, length), seed).locate(0)
    clip = cache.clip(*places, length, world.prior.predicts_whole_clips).to(runtime.device)
    shown = min(SHOWN, int(data.lengths.max()) + 1)
    if world.prior.max_frames is not None:
        shown = min(shown, world.prior.max_frames - world.prior.window + 1)
    places = ClipSampler(data, shown, DREAMS, split_for(data, shown), seed).locate(0)

    @torch.no_grad()
    def check() -> tuple[dict[str, float], np.ndarray | None]:
        with runtime.autocast():
            losses: dict[str, Any] = world.prior.loss(clip)
        figures = {name: float(value) for name, value in losses.items()}
        if draw is None or not runtime.is_main or not world.prior.can_step or shown < 2:
            return figures, None
        return figures, draw(world, data, *places, shown, seed)

    return check


def strip(rows: list[np.ndarray]) -> np.ndarray:
    """Frames side by side, rows below each other: each (L, H, W, 3) uint8 -> (rows * H, L * W, 3)."""
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
