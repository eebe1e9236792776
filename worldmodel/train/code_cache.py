"""The dataset as codes: encoded once, then read instead of the frames.

Shapes: F frames of all episodes, B clips, L frames a clip, h w code grid, A action size, V codes
in the book.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from worldmodel.common.errors import UserError
from worldmodel.data import Dataset
from worldmodel.prior.code_clip import CodeClip
from worldmodel.prior.status_config import StatusConfig
from worldmodel.tokenizer import Tokenizer


def check_status(data: Dataset, status: StatusConfig) -> None:
    """Refuse a hidden variable that the dataset does not have."""
    if status.variable and status.variable not in data.header.variables:
        names = ", ".join(data.header.variables) or "none"
        raise UserError(
            f"status variable {status.variable!r} is not in {data.name}, which has: {names}. Name one of "
            "them, or none with --prior.status.variable ''."
        )


class CodeCache:
    """Clips of codes with everything else a prior learns from.

    Args:
        data: the dataset.
        codes: (F, h, w) integers, the codes of all its frames in order.
        num_codes: V.
        status: the hidden variable to bin, if any.

    Raises:
        UserError: the dataset has no such variable.
    """

    def __init__(self, data: Dataset, codes: np.ndarray, num_codes: int, status: StatusConfig) -> None:
        check_status(data, status)
        self.data, self.codes, self.num_codes = data, codes, num_codes
        self.status = np.zeros(data.num_frames, np.int64)
        if status.variable:
            self.status = np.digitize(data.flat(f"variables/{status.variable}"), np.asarray(status.edges))

    def counts(self, episodes: np.ndarray) -> torch.Tensor:
        """How often the valid frames of some episodes show each code at each place, (h, w, V) int64."""
        data = self.data
        chosen = np.zeros(data.num_frames, bool)
        for number in episodes:
            begin = int(data.frame_offsets[number])
            chosen[begin : begin + int(data.lengths[number]) + 1] = True
        frames = self.codes[chosen & data.flat("frame_valid")]
        return torch.from_numpy(_place_counts(frames, self.num_codes))

    def clip(self, episodes: np.ndarray, starts: np.ndarray, length: int, whole: bool = False) -> CodeClip:
        """Clips of L = `length` frames.

        Over all legal starts each frame of the data counts alike. Were all frames of all clips learned with one
        weight, an episode's last frame would count for one where others count for L, and ends would look L times as
        rare.

        Args:
            episodes: (B,) numbers.
            starts: (B,) first frames.
            length: L.
            whole: learn every frame, each weighted by L over the number of clips that show it; else learn a
                clip's last frame, and every frame of a clip that begins its episode, with weight 1.
        """
        data = self.data
        frames = (data.frame_offsets[episodes] + starts)[:, None] + np.arange(length)  # (B, L)
        steps = (data.step_offsets[episodes] + starts)[:, None] + np.arange(length - 1)  # (B, L-1)
        arrays = {name: data.flat(name)[steps] for name in ("actions", "rewards", "terminations", "truncations")}
        weights = (np.arange(length) == length - 1)[None] | (starts == 0)[:, None]  # (B, L)
        if whole:
            place = starts[:, None] + np.arange(length)
            last_start = (data.lengths[episodes] + 1 - length)[:, None]
            weights = length / (np.minimum(place, last_start) - np.maximum(place - length + 1, 0) + 1)
        return CodeClip(
            weights=torch.from_numpy(weights.astype(np.float32)),
            codes=torch.from_numpy(self.codes[frames].astype(np.int64)),
            frame_valid=torch.from_numpy(data.flat("frame_valid")[frames]),
            status=torch.from_numpy(self.status[frames].astype(np.int64)),
            **{name: torch.from_numpy(values) for name, values in arrays.items()},
        )


def _place_counts(codes: np.ndarray, num_codes: int) -> np.ndarray:
    """(n, h, w) codes -> (h, w, V) counts."""
    _, h, w = codes.shape
    flat = codes.reshape(len(codes), h * w) + np.arange(h * w) * num_codes
    return np.bincount(flat.ravel(), minlength=h * w * num_codes).reshape(h, w, num_codes)


def encode_dataset(data: Dataset, tokenizer: Tokenizer, path: Path) -> np.ndarray:
    """Codes of all frames, from a file if it is there, else encoded and written to it.

    Args:
        data: the dataset.
        tokenizer: where it is decides the device.
        path: a .npy file that belongs to this dataset and tokenizer.

    Returns:
        (F, h, w) int32.
    """
    if path.exists():
        return np.load(path, allow_pickle=False)
    device = tokenizer.pixel_mean.device
    codes = np.empty((data.num_frames, *tokenizer.grid), np.int32)
    for number in range(data.num_episodes):
        frames = torch.from_numpy(data.frames(number)).to(device)
        begin = int(data.frame_offsets[number])
        codes[begin : begin + len(frames)] = tokenizer.encode(frames[None])[0].cpu().numpy()
    fresh = path.with_name(f".{path.name}.new-{os.getpid()}.npy")
    np.save(fresh, codes, allow_pickle=False)
    fresh.replace(path)
    return codes
