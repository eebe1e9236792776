"""Clips of a dataset as a clip prior learns them: codes, conditions, and which clips have a loss.

Shapes: B clips, L frames a clip, T time steps of codes, h w code grid, V codes of the codebook.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldmodel.common.errors import UserError
from worldmodel.common.processes import process_rows, sum_over_processes
from worldmodel.data import ClipSampler, Dataset
from worldmodel.prior.clip.clip_conditioning import Conditioning
from worldmodel.world.clip_model import ClipModel

COUNTED_CLIPS = 512  # clips of the training split whose codes are counted
COUNTED_AT_ONCE = 16


@dataclass(frozen=True)
class CodedClips:
    """B clips after the tokenizer.

    Attributes:
        frames: (B, L, H, W, 3) uint8.
        codes: (B, T, h, w) int64.
        conditioning: what the model is conditioned on.
        has_loss: (B,) bool; False for a clip with an invalid frame, which is not learned.
    """

    frames: Tensor
    codes: Tensor
    conditioning: Conditioning
    has_loss: Tensor


def check_labels(data: Dataset, class_label: bool) -> tuple[str, ...]:
    """The names of a dataset's classes; empty if they are not used.

    Raises:
        UserError: labels are wanted, and no training episode has one.
    """
    if not class_label:
        return ()
    if (data.labels[data.episodes_of("train")] < 0).all():
        raise UserError(
            f"prior.class-label: no training episode of {data.name} has a label. Record labels, or pass "
            "--prior.no-class-label."
        )
    return data.class_names


class ClipBatches:
    """Reads clips and encodes them. Codes are not stored: those of a clip tokenizer depend on where a clip begins.

    Args:
        model: encodes on its device; its config decides which conditions are read.
        data: the dataset.
    """

    def __init__(self, model: ClipModel, data: Dataset) -> None:
        self.model, self.data = model, data
        self.reader = ClipSampler(data, model.prior.config.num_frames, 1, None)  # its order is not used

    def gather(self, episodes: np.ndarray, starts: np.ndarray) -> CodedClips:
        """Read and encode clips on the model's device.

        Args:
            episodes: (B,) numbers.
            starts: (B,) first frames.
        """
        model = self.model
        batch = self.reader.gather(episodes, starts).torch(model.device)
        return CodedClips(
            frames=batch.frames,
            codes=model.tokenizer.encode(batch.frames),
            conditioning=model.conditioning_of(batch),
            has_loss=batch.frame_valid.all(1),
        )

    def code_counts(self, seed: int) -> Tensor:
        """How often each code occurs at each place in clips of the training split, (h, w, V) int64.

        Every process counts its part of the clips, and all of them get the sum.
        """
        tokenizer = self.model.tokenizer
        (h, w), num_codes = tokenizer.grid, tokenizer.num_codes
        sampler = ClipSampler(self.data, self.reader.length, 1, "train", seed)
        num_clips = min(COUNTED_CLIPS, sampler.num_clips)
        counts = torch.zeros(h * w * num_codes, dtype=torch.int64, device=self.model.device)
        offsets = torch.arange(h * w, device=counts.device) * num_codes
        rows = process_rows(num_clips)
        for begin in range(rows.start, rows.stop, COUNTED_AT_ONCE):
            located = [sampler.locate(step) for step in range(begin, min(rows.stop, begin + COUNTED_AT_ONCE))]
            episodes, starts = (np.concatenate(column) for column in zip(*located, strict=True))
            codes = self.gather(episodes, starts).codes.flatten(2)  # (B, T, K)
            counts += torch.bincount((codes + offsets).flatten(), minlength=len(counts))
        return sum_over_processes(counts).view(h, w, num_codes)
