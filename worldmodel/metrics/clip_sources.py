"""Sources of clips to compare: recorded ones, and those that a model generates from the conditions of recorded ones.

Shapes: N clips, L frames, H W pixels, A action size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from worldmodel.common.errors import UserError
from worldmodel.data import ClipSampler, Dataset
from worldmodel.data.clips import Batch
from worldmodel.dream.simulator import Simulator
from worldmodel.metrics.dream_rollouts import BACKEND
from worldmodel.prior.sampling import Sampling
from worldmodel.world.clip_model import ClipModel
from worldmodel.world.world_model import WorldModel

DEFAULT_SAMPLING = Sampling(exact=False)


def recorded_clips(
    data: Dataset, length: int, num: int, split: str, seed: int = 0, batch_size: int = 16, skip: int = 0
) -> Iterator[Batch[Tensor]]:
    """Clips of a split in a random order, without clips that hold an invalid frame.

    Args:
        data: the dataset.
        length: L.
        num: number of clips; fewer where the split has fewer.
        split: "train", "validation" or "test".
        seed: of the order.
        batch_size: clips at once.
        skip: clips to leave out at the beginning of the order.

    Yields:
        Batches of at most `batch_size` clips.

    Raises:
        UserError: the split has no episode of so many frames.
    """
    sampler = ClipSampler(data, length, 1, split, seed)
    valid, chosen = data.flat("frame_valid"), []
    for step in range(sampler.num_clips):
        episodes, starts = sampler.locate(step)
        begin = int(data.frame_offsets[episodes[0]] + starts[0])
        if valid[begin : begin + length].all():
            chosen.append((episodes, starts))
        if len(chosen) == skip + num:
            break
    chosen = chosen[skip:]
    for i in range(0, len(chosen), batch_size):
        episodes, starts = (np.concatenate(x) for x in zip(*chosen[i : i + batch_size], strict=True))
        yield sampler.gather(episodes, starts).torch()


def generated_clips(
    model: ClipModel | WorldModel,
    batches: Iterable[Batch[Tensor]],
    seed: int = 0,
    sampling: Sampling = DEFAULT_SAMPLING,
    samples: int = 1,
) -> Iterator[Tensor]:
    """Clips of a model, clip i from the conditions of recorded clip i.

    Args:
        model: a clip model, which gets the classes, actions and frames that it is conditioned on; or a world, which
            dreams on from the first frame of each clip with its actions.
        batches: of recorded clips.
        seed: samples are numbered batch by batch, all first samples of a batch before all second ones; number i is a
            function of seed + i.
        sampling: how codes are sampled.
        samples: S, samples of each clip.

    Yields:
        (N, L, H, W, 3) uint8 on the CPU, for each batch; (N, S, L, H, W, 3) if S is above 1.
    """
    for batch in batches:
        found = []
        for _ in range(samples):
            found.append(_generate(model, batch, seed, sampling).cpu())
            seed += len(batch.frames)
        yield found[0] if samples == 1 else torch.stack(found, 1)


def _generate(model: ClipModel | WorldModel, batch: Batch[Tensor], seed: int, sampling: Sampling) -> Tensor:
    """One clip from the conditions of each recorded clip: (N, L, H, W, 3) uint8."""
    rows = len(batch.frames)
    if isinstance(model, ClipModel):
        given = model.conditioning_of(batch)
        return model.sample(rows, given.class_index, given.actions, seed, sampling, given.frames, rows)
    simulator = Simulator(model, rows, seed=seed, sampling=sampling, backend=BACKEND)
    context = model.context(batch.frames[:, :1], batch.actions[:, :0])
    return simulator.rollout(batch.actions.to(model.device), context).frames


def reconstructed_clips(model: ClipModel | WorldModel, batches: Iterable[Batch[Tensor]]) -> Iterator[Tensor]:
    """Recorded clips after the tokenizer of a model has encoded and decoded them; yields as `generated_clips`."""
    for batch in batches:
        codes = model.tokenizer.encode(batch.frames.to(model.device))
        yield model.tokenizer.decode(codes).cpu()


def check_source(model: ClipModel | WorldModel, data: Dataset, length: int) -> None:
    """Refuse a dataset whose clips a model cannot generate.

    Args:
        model: the model.
        data: the dataset.
        length: L.

    Raises:
        UserError: other frames, actions, classes or another length than the model's.
    """
    spec, header = model.spec, data.header
    if header.pixels != spec.pixels or header.action_space != spec.action_space:
        raise UserError(
            f"{data.name} has {header.pixels} and {header.action_space}, but the model was trained on {spec.pixels} "
            f"and {spec.action_space}; give a dataset of the same environment."
        )
    if not isinstance(model, ClipModel):
        return
    config = model.prior.config
    if length != config.num_frames:
        raise UserError(f"clips of {length} frames: this clip model has clips of {config.num_frames} frames.")
    if config.class_label and data.class_names != model.class_names:
        raise UserError(
            f"{data.name} has the classes {list(data.class_names)}, but the clip model was trained on "
            f"{list(model.class_names)}; give a dataset with the same classes."
        )
