"""A quick evaluation after training: quality of reconstructions, and how much actions matter.

Shapes: B clips, L frames a clip, h w code grid.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from worldmodel.data import Dataset
from worldmodel.train.code_cache import CodeCache
from worldmodel.world.world_model import WorldModel

MAX_CLIPS = 192
CLIP_LENGTH = 12  # frames of a clip, fewer where no episode is so long
BATCH_SIZE = 16  # clips
DECODED_BATCHES = 2  # batches whose frames are compared with their reconstructions


@torch.no_grad()
def evaluate_world(world: WorldModel, data: Dataset, cache: CodeCache, seed: int) -> dict[str, Any]:
    """Measure a world on the validation split; on the training split where that is empty.

    Returns:
        `split`; `clips`, their number; `psnr` of reconstructions in dB, mean over frames, of the part of the frame
        that is encoded; `border_psnr` of the rest, if there is any; `nats_per_code` with the recorded actions and
        `nats_per_code_shuffled` with those of another clip, over frames >= 1 of the clips.
    """
    split = "validation" if len(data.episodes_of("validation")) else "train"
    longest = int(data.lengths[data.episodes_of(split)].max()) + 1
    length = min(CLIP_LENGTH, longest, world.prior.max_frames or CLIP_LENGTH)
    episodes, starts = _clips(data, split, length, seed)
    device, (h, w) = world.device, world.tokenizer.grid
    psnrs: list[float] = []
    borders: list[float] = []
    true, shuffled, codes = 0.0, 0.0, 0
    for i in range(0, len(episodes), BATCH_SIZE):
        rows = slice(i, i + BATCH_SIZE)
        clip = cache.clip(episodes[rows], starts[rows], length).to(device)
        other = np.roll(np.arange(len(episodes)), 1)[rows]
        actions = cache.clip(episodes[other], starts[other], length).actions.to(device)
        codes += int(clip.frame_valid[:, 1:].sum()) * h * w
        true -= float(world.prior.log_prob(clip)[:, 1:].sum())
        shuffled -= float(world.prior.log_prob(replace(clip, actions=actions))[:, 1:].sum())
        if len(psnrs) < DECODED_BATCHES:
            pairs = zip(episodes[rows], starts[rows], strict=True)
            frames = torch.from_numpy(np.stack([data.frames(int(e), int(s), int(s) + length) for e, s in pairs]))
            known = slice(min(world.tokenizer.decoder_past, length - 1), None)  # what codes of the clip determine
            decoded = world.tokenizer.decode_at(clip.codes, known).cpu()
            squares = ((frames[:, known].float() - decoded.float()) / 255).square()
            squares = squares[clip.frame_valid[:, known].cpu()]  # (N, H, W, 3)
            inside = world.tokenizer.encoded_part(squares)
            psnrs.append(_mean_psnr(inside.mean((1, 2, 3))))
            if world.tokenizer.border is not None:
                num_outside = squares[0].numel() - inside[0].numel()
                borders.append(_mean_psnr((squares.sum((1, 2, 3)) - inside.sum((1, 2, 3))) / num_outside))
    return {
        "split": split,
        "clips": len(episodes),
        "psnr": round(float(np.mean(psnrs)), 2),
        **({"border_psnr": round(float(np.mean(borders)), 2)} if borders else {}),
        "nats_per_code": round(true / codes, 4),
        "nats_per_code_shuffled": round(shuffled / codes, 4),
    }


def _mean_psnr(mse: torch.Tensor) -> float:
    """Mean PSNR in dB of frames with these mean squared errors, (N,), in units of the full range."""
    return float((-10 * mse.clamp_min(1e-10).log10()).mean())


def _clips(data: Dataset, split: str, length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Episodes and first frames of up to `MAX_CLIPS` clips that do not overlap, shuffled by the seed."""
    clips = [
        (number, start)
        for number in data.episodes_of(split)
        for start in range(0, int(data.lengths[number]) + 2 - length, length)
    ]
    order = np.random.default_rng(seed).permutation(len(clips))[:MAX_CLIPS]
    chosen = np.asarray([clips[i] for i in order], np.int64).reshape(-1, 2)
    return chosen[:, 0], chosen[:, 1]
