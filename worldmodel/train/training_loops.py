"""The two loops, written out: frames to a tokenizer, codes to a prior.

Shapes: B clips of all processes together, L frames a clip.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from worldmodel.common.errors import UserError
from worldmodel.common.processes import process_rows
from worldmodel.common.runtime import Runtime
from worldmodel.data import ClipSampler, Dataset
from worldmodel.prior import FactoredConfig, FlatConfig
from worldmodel.tokenizer import Tokenizer
from worldmodel.train.code_cache import CodeCache, check_status
from worldmodel.train.loop import Loop, Progress
from worldmodel.train.training_config import LoopConfig, PriorTraining, TokenizerTraining
from worldmodel.train.validation import DrawDreams, check_prior, check_tokenizer
from worldmodel.world.world_model import WorldModel

MEASURED_FRAMES = 2000  # of the training split, for the tokenizer's normaliser


def check_feeds(data: Dataset, config: TokenizerTraining | PriorTraining) -> None:
    """Refuse, before anything is written, what a loop would stumble over.

    Raises:
        UserError: no episode is long enough for a loop's clips, or there is no such status variable.
    """
    if isinstance(config, TokenizerTraining):
        sampler_of(data, config.train_tokenizer, config.seed)
    if isinstance(config, PriorTraining):
        sampler_of(data, config.train_prior, config.seed)
        check_status(data, config.prior.status)
        length, prior = config.train_prior.clip_length, config.prior
        if isinstance(prior, FactoredConfig) and length < prior.window + 1:
            raise UserError(
                f"train-prior.clip-length={length} never shows the {prior.window} frames that the prior remembers and "
                f"the next one: wanted at least {prior.window + 1}, or a smaller --prior.window."
            )
        if isinstance(prior, FlatConfig) and prior.bounded and length > prior.num_frames:
            raise UserError(
                f"train-prior.clip-length={length} is longer than the {prior.num_frames} frames that this prior can "
                "hold: shorten it, or raise --prior.num-frames."
            )


def sampler_of(data: Dataset, settings: LoopConfig, seed: int) -> ClipSampler:
    """The clips of a loop, those of all processes together."""
    return ClipSampler(data, settings.clip_length, settings.batch_size, "train", seed)


def learn_tokenizer(
    tokenizer: Tokenizer,
    data: Dataset,
    config: TokenizerTraining,
    folder: Path,
    runtime: Runtime,
    progress: Progress | None,
    measured: bool = False,
) -> None:
    """Frames -> codes -> frames (paper section 2.1); each process learns from its part of the clips.

    Args:
        tokenizer: trained in place.
        data: the dataset.
        config: its loop.
        folder: of checkpoint and log.
        runtime: where to compute.
        progress: told of every logged step.
        measured: the normaliser stays as it is; it came with the weights.
    """
    settings = config.train_tokenizer
    sampler = sampler_of(data, settings, config.seed)

    def locate(step: int) -> tuple[np.ndarray, np.ndarray]:
        return sampler.locate(0 if config.overfit_one_batch else step)

    if not measured:
        tokenizer.fit_normaliser(_some_frames(data))
    check = check_tokenizer(tokenizer, data, settings.clip_length, config.seed, runtime)
    loop = Loop("tokenizer", folder, tokenizer, settings, config.seed, runtime, locate, check, progress)
    ours = process_rows(settings.batch_size)
    for step in loop.steps():
        episodes, starts = locate(step)
        batch = sampler.gather(episodes[ours], starts[ours]).torch(runtime.device)
        with runtime.autocast():
            losses = tokenizer.loss(batch.frames, batch.frame_valid)
        loop.descend(losses)


def learn_prior(
    world: WorldModel,
    cache: CodeCache,
    config: PriorTraining,
    folder: Path,
    runtime: Runtime,
    progress: Progress | None,
    measured: bool = False,
    draw: DrawDreams | None = None,
) -> None:
    """Codes and actions -> the next codes, ends, rewards (paper section 2.2).

    Every process holds the whole batch of codes, which is small, and the prior takes its part of it once the
    history is spoilt: what replaces a code may come from any clip.

    Args:
        world: its prior is trained in place; it has its starts.
        cache: the dataset as codes.
        config: its loop.
        folder: of checkpoint and log.
        runtime: where to compute.
        progress: told of every logged step.
        measured: the prior's first guesses and its rewards' scale stay as they are; they came with the weights.
        draw: draws dreams of validation clips; None logs no pictures.
    """
    settings, prior, data = config.train_prior, world.prior, cache.data
    sampler = sampler_of(data, settings, config.seed)

    def locate(step: int) -> tuple[np.ndarray, np.ndarray]:
        return sampler.locate(0 if config.overfit_one_batch else step)

    episodes = data.episodes_of("train")
    counts = cache.counts(episodes).to(runtime.device)
    prior.set_rare_codes(counts)
    if not measured:
        torch.manual_seed(config.seed)
        prior.init_from_codes(world.tokenizer.codebook.embeddings, counts)
        spans = [slice(int(data.step_offsets[e]), int(data.step_offsets[e] + data.lengths[e])) for e in episodes]
        rewards = np.concatenate([data.flat("rewards")[span] for span in spans])
        prior.fit_reward_scale(torch.from_numpy(rewards).to(runtime.device))
    check = check_prior(world, cache, settings.clip_length, config.seed, runtime, draw)
    loop = Loop("prior", folder, prior, settings, config.seed, runtime, locate, check, progress)
    for step in loop.steps():
        clip = cache.clip(*locate(step), settings.clip_length, prior.predicts_whole_clips).to(runtime.device)
        with runtime.autocast():
            losses = prior.loss(clip)
        loop.descend(losses)


def _some_frames(data: Dataset) -> list[torch.Tensor]:
    """Valid frames spread evenly over the training split, one chunk an episode."""
    episodes = data.episodes_of("train")
    stride = max(1, int((data.lengths[episodes] + 1).sum()) // MEASURED_FRAMES)
    chunks = []
    for number in episodes:
        begin = int(data.frame_offsets[number])
        valid = data.flat("frame_valid")[begin : begin + int(data.lengths[number]) + 1]
        chunks.append(torch.from_numpy(data.frames(int(number))[valid][number % stride :: stride]))
    return [chunk for chunk in chunks if len(chunk)]
