"""Sources of clips to compare: recorded ones, and those that a model generates from the conditions of recorded ones.

Shapes: N clips, L frames, H W pixels, A action size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
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
    data: Dataset, length: int, num: int, split: str, seed: int = 0, batch_size: int = 16
) -> Iterator[Batch[Tensor]]:
    """Clips of a split in a random order, without clips that hold an invalid frame.

    Args:
        data: the dataset.
        length: L.
        num: number of clips; fewer where the split has fewer.
        split: "train", "validation" or "test".
        seed: of the order.
        batch_size: clips at once.

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
        if len(chosen) == num:
            break
    for i in range(0, len(chosen), batch_size):
        episodes, starts = (np.concatenate(x) for x in zip(*chosen[i : i + batch_size], strict=True))
        yield sampler.gather(episodes, starts).torch()


def generated_clips(
    model: ClipModel | WorldModel,
    batches: Iterable[Batch[Tensor]],
    seed: int = 0,
    sampling: Sampling = DEFAULT_SAMPLING,
) -> Iterator[Tensor]:
    """Clips of a model, clip i from the conditions of recorded clip i.

    Args:
        model: a clip model, which gets the classes, actions and frames that it is conditioned on; or a world, which
            dreams on from the first frame of each clip with its actions.
        batches: of recorded clips.
        seed: clip i is a function of seed + i.
        sampling: how codes are sampled.

    Yields:
        (N, L, H, W, 3) uint8 on the CPU, for each batch.
    """
    for batch in batches:
        rows = len(batch.frames)
        if isinstance(model, ClipModel):
            given = model.conditioning_of(batch)
            clips = model.sample(rows, given.class_index, given.actions, seed, sampling, given.frames, rows)
            yield clips.cpu()
        else:
            simulator = Simulator(model, rows, seed=seed, sampling=sampling, backend=BACKEND)
            context = model.context(batch.frames[:, :1], batch.actions[:, :0])
            yield simulator.rollout(batch.actions.to(model.device), context).frames.cpu()
        seed += rows


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
