"""The two training loops: frames to a tokenizer, codes to a prior.

Shapes: B clips of all processes together, L frames a clip.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from worldmodel.common.mirroring import flip_rows
from worldmodel.common.processes import process_rows
from worldmodel.data import ClipSampler, Dataset
from worldmodel.tokenizer import Tokenizer
from worldmodel.train.code_cache import CodeCache, check_status
from worldmodel.train.loop import LocateClips, Loop
from worldmodel.train.mirror_augmentation import dataset_mirror, mirrored_clips
from worldmodel.train.training_config import LoopConfig, PriorTraining, TokenizerTraining
from worldmodel.train.training_run import TrainingRun
from worldmodel.train.validation import prior_validation, tokenizer_validation
from worldmodel.world.world_model import WorldModel

MEASURED_FRAMES = 2000  # frames of the training split that the tokenizer's normaliser is measured on,
MEASURED_NUMBERS = 2**20  # read at most so many pixel values at a time


def check_data_fits(data: Dataset, config: TokenizerTraining | PriorTraining) -> None:
    """Refuse data that a stage cannot be trained on, before anything is written.

    Raises:
        UserError: no episode is long enough for the clips of a loop, there is no such status variable, or mirror
            augmentation of frames that are not symmetric.
    """
    if isinstance(config, TokenizerTraining):
        clip_sampler(data, config.train_tokenizer, config.seed)
        if config.mirror:
            dataset_mirror(data, config.tokenizer.encoded)
    if isinstance(config, PriorTraining):
        clip_sampler(data, config.train_prior, config.seed)
        check_status(data, config.prior.status)
        config.prior.check_clip_length(config.train_prior.clip_length)


def clip_sampler(data: Dataset, settings: LoopConfig, seed: int) -> ClipSampler:
    """Sampler of the clips of a loop, of all processes together."""
    return ClipSampler(data, settings.clip_length, settings.batch_size, "train", seed)


def train_tokenizer_stage(
    tokenizer: Tokenizer,
    data: Dataset,
    config: TokenizerTraining,
    run: TrainingRun,
    keep_statistics: bool = False,
) -> None:
    """Train frames -> codes -> frames (paper section 2.1); each process takes its part of the clips.

    Args:
        tokenizer: trained in place.
        data: the dataset.
        config: settings of the loop.
        run: where the training works and how it reports.
        keep_statistics: do not measure the normaliser; it came with the weights.
    """
    for _ in tokenizer_steps(tokenizer, data, config, run, keep_statistics):
        pass


def tokenizer_steps(
    tokenizer: Tokenizer, data: Dataset, config: TokenizerTraining, run: TrainingRun, keep_statistics: bool = False
) -> Iterator[int]:
    """The steps of `train_tokenizer_stage`: yields the number of each step after its update of the weights."""
    settings = config.train_tokenizer
    sampler = clip_sampler(data, settings, config.seed)
    locate = _clips_of_steps(sampler, config.overfit_one_batch)
    mirrored = mirrored_clips(config.seed, settings.batch_size, config.overfit_one_batch)
    if not keep_statistics:
        frames = _spread_frames(data)
        tokenizer.fit_normaliser((part for x in frames for part in (x, x.flip(-2))) if config.mirror else frames)
    validate = tokenizer_validation(tokenizer, data, settings.clip_length, config.seed, run)
    loop = Loop("tokenizer", tokenizer, settings, config.seed, run, locate, validate)
    own = process_rows(settings.batch_size)
    with tokenizer.codebook.accumulating(settings.accumulation_steps):
        for step in loop.steps():
            episodes, starts = (clips[own] for clips in locate(step))
            valid = sampler.frame_valid(episodes, starts)  # (B, L)
            for rows, share in loop.parts(valid.sum(1)):
                arrays = sampler.gather(episodes[rows], starts[rows])
                if config.mirror:
                    arrays = replace(arrays, frames=flip_rows(arrays.frames, mirrored(step)[own][rows]))
                batch = arrays.torch(run.runtime.device)
                with run.runtime.autocast():
                    losses = tokenizer.loss(batch.frames, batch.frame_valid)
                loop.backward(losses, share)
            loop.update()
            yield step


def train_prior_stage(
    world: WorldModel,
    cache: CodeCache,
    config: PriorTraining,
    run: TrainingRun,
    keep_statistics: bool = False,
) -> None:
    """Train codes and actions -> next codes, termination and reward (paper section 2.2).

    Every process holds the whole batch of codes, which is small. The prior takes the part of its process after it has
    corrupted the history, since the codes that replace others may come from any clip.

    Args:
        world: its prior is trained in place; it has its starts.
        cache: the dataset as codes.
        config: settings of the loop.
        run: where the training works and how it reports.
        keep_statistics: do not initialise the prior from code counts nor measure the scale of rewards; both came with
            the weights.
    """
    settings, prior = config.train_prior, world.prior
    locate = _clips_of_steps(clip_sampler(cache.data, settings, config.seed), config.overfit_one_batch)
    mirrored = mirrored_clips(config.seed, settings.batch_size, config.overfit_one_batch)
    _prepare_prior(world, cache, config.seed, run, keep_statistics)
    validate = prior_validation(world, cache, settings.clip_length, config.seed, run)
    loop = Loop("prior", prior, settings, config.seed, run, locate, validate)
    for step in loop.steps():
        flips = mirrored(step) if config.mirror else None
        clip = cache.clip(*locate(step), settings.clip_length, prior.predicts_whole_clips, flips)
        clip = clip.to(run.runtime.device)
        if config.shuffled_actions:
            clip = replace(clip, actions=clip.actions.roll(1, 0))
        for rows, share in loop.parts(clip.weights.sum(1).cpu().numpy()):
            part = clip.select(rows) if settings.accumulation_steps > 1 else clip
            with run.runtime.autocast():
                losses = prior.loss(part)
            loop.backward(losses, share)
        loop.update()


def _clips_of_steps(sampler: ClipSampler, overfit_one_batch: bool) -> LocateClips:
    """The clips of each step; those of step 0 at every step to overfit one batch."""
    return lambda step: sampler.locate(0 if overfit_one_batch else step)


def _prepare_prior(world: WorldModel, cache: CodeCache, seed: int, run: TrainingRun, keep_statistics: bool) -> None:
    """Give the prior the code counts of the training split and, unless they are kept, its initial statistics."""
    data, prior, device = cache.data, world.prior, run.runtime.device
    episodes = data.episodes_of("train")
    counts = cache.code_counts(episodes).to(device)
    prior.set_rare_codes(counts)
    if keep_statistics:
        return
    torch.manual_seed(seed)
    prior.init_from_codes(world.tokenizer.codebook.embeddings, counts)
    spans = [slice(int(data.step_offsets[e]), int(data.step_offsets[e] + data.lengths[e])) for e in episodes]
    rewards = np.concatenate([data.flat("rewards")[span] for span in spans])
    prior.fit_reward_scale(torch.from_numpy(rewards).to(device))


def _spread_frames(data: Dataset) -> Iterator[torch.Tensor]:
    """Valid frames spread evenly over the training split, in chunks of one episode at most; copies."""
    episodes = data.episodes_of("train")
    stride = max(1, int((data.lengths[episodes] + 1).sum()) // MEASURED_FRAMES)
    size = max(1, MEASURED_NUMBERS // math.prod(data.header.pixels.frame_shape))  # frames in a chunk
    for number in episodes:
        begin = int(data.frame_offsets[number])
        valid = data.flat("frame_valid")[begin : begin + int(data.lengths[number]) + 1]
        chosen = np.flatnonzero(valid)[number % stride :: stride]
        for i in range(0, len(chosen), size):
            frames = [data.frames(int(number), frame, frame + 1) for frame in chosen[i : i + size].tolist()]
            yield torch.from_numpy(np.concatenate(frames))
