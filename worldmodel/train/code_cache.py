"""The dataset as codes: encoded once, then read instead of the frames.

Shapes: F frames of all episodes, B clips, L frames a clip, h w code grid, A action size, V codes of the codebook.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from worldmodel.common.errors import UserError
from worldmodel.common.files import atomic_path, check_free_space
from worldmodel.common.mirroring import ActionMirror
from worldmodel.data import Dataset
from worldmodel.prior.code_clip import CodeClip
from worldmodel.prior.status_bins import status_bins
from worldmodel.prior.status_config import StatusConfig
from worldmodel.tokenizer import Tokenizer
from worldmodel.tokenizer.tokenizer import ENCODE_CHUNK

ENCODED_FRAMES = 4 * ENCODE_CHUNK  # frames read at once, a multiple of what the tokenizer encodes at once
COUNTED_FRAMES = 4096  # frames whose codes are counted at once


def check_status(data: Dataset, status: StatusConfig) -> None:
    """Refuse a hidden variable that the dataset does not have."""
    if status.variable and status.variable not in data.header.variables:
        names = ", ".join(data.header.variables) or "none"
        raise UserError(
            f"status variable {status.variable!r} is not in {data.name}, which has: {names}. Name one of "
            "them, or none with --prior.status.variable ''."
        )


class CodeCache:
    """Clips of codes, with everything else that a prior is trained on.

    Args:
        data: the dataset.
        codes: (F, h, w) integers, the codes of all frames in order; may be mapped from a file.
        num_codes: V.
        status: the hidden variable to bin; may name none.
        mirrored_codes: the codes of the flipped frames, like `codes`, for mirror augmentation; None without it.
        mirror: mirrors the actions; with `mirrored_codes`.

    Raises:
        UserError: the dataset has no such variable.
    """

    def __init__(
        self,
        data: Dataset,
        codes: np.ndarray,
        num_codes: int,
        status: StatusConfig,
        mirrored_codes: np.ndarray | None = None,
        mirror: ActionMirror | None = None,
    ) -> None:
        check_status(data, status)
        self.data, self.codes, self.num_codes, self.status_config = data, codes, num_codes, status
        self.mirrored_codes, self.mirror = mirrored_codes, mirror

    def status(self, frames: np.ndarray) -> np.ndarray:
        """Status bins of frames, by their index among all F; zeros where no status is learned."""
        name = self.status_config.variable
        values = self.data.flat(f"variables/{name}")[frames] if name else np.zeros(frames.shape)
        return status_bins(self.status_config, values)

    def code_counts(self, episodes: np.ndarray) -> torch.Tensor:
        """How often each code occurs at each place in the valid frames of some episodes, (h, w, V) int64.

        With mirror augmentation the flipped frames count too.
        """
        _, h, w = self.codes.shape
        valid, offsets = self.data.flat("frame_valid"), np.arange(h * w) * self.num_codes
        counts = np.zeros(h * w * self.num_codes, np.int64)
        for frames in self._frames_of(episodes):
            for all_codes in (self.codes, self.mirrored_codes):
                if all_codes is not None:
                    codes = all_codes[frames[valid[frames]]]
                    counts += np.bincount((codes.reshape(len(codes), h * w) + offsets).ravel(), minlength=len(counts))
        return torch.from_numpy(counts.reshape(h, w, self.num_codes))

    def _frames_of(self, episodes: np.ndarray) -> Iterator[np.ndarray]:
        """Indices of the frames of some episodes, at least `COUNTED_FRAMES` at a time if there are so many."""
        pending: list[np.ndarray] = []
        for number in episodes:
            begin = int(self.data.frame_offsets[number])
            end = begin + int(self.data.lengths[number]) + 1
            for start in range(begin, end, COUNTED_FRAMES):
                pending.append(np.arange(start, min(end, start + COUNTED_FRAMES)))
                if sum(map(len, pending)) >= COUNTED_FRAMES:
                    yield np.concatenate(pending)
                    pending = []
        if pending:
            yield np.concatenate(pending)

    def clip(
        self,
        episodes: np.ndarray,
        starts: np.ndarray,
        length: int,
        all_frames: bool = False,
        mirrored: np.ndarray | None = None,
    ) -> CodeClip:
        """Clips of L = `length` frames, with weights such that each frame of the data counts alike.

        There are L clips that hold a frame in the middle of an episode, but only one that holds its last frame. With
        equal weights, terminations would seem L times rarer than they are.

        Args:
            episodes: (B,) numbers.
            starts: (B,) first frames.
            length: L.
            all_frames: weight every frame by L over the number of clips that hold it. Otherwise a clip's last frame,
                and every frame of a clip that begins its episode, have weight 1 and the others 0.
            mirrored: (B,) bool, the clips to mirror; None for none.
        """
        data = self.data
        frames = (data.frame_offsets[episodes] + starts)[:, None] + np.arange(length)  # (B, L)
        steps = (data.step_offsets[episodes] + starts)[:, None] + np.arange(length - 1)  # (B, L-1)
        arrays = {name: data.flat(name)[steps] for name in ("actions", "rewards", "terminations", "truncations")}
        weights = (np.arange(length) == length - 1)[None] | (starts == 0)[:, None]  # (B, L)
        if all_frames:
            position = starts[:, None] + np.arange(length)
            last_start = (data.lengths[episodes] + 1 - length)[:, None]
            weights = length / (np.minimum(position, last_start) - np.maximum(position - length + 1, 0) + 1)
        codes = self.codes[frames].astype(np.int64)
        if mirrored is not None and mirrored.any():
            assert self.mirrored_codes is not None
            assert self.mirror is not None
            codes[mirrored] = self.mirrored_codes[frames[mirrored]]
            arrays["actions"] = self.mirror.rows(arrays["actions"], mirrored)
        return CodeClip(
            weights=torch.from_numpy(weights.astype(np.float32)),
            codes=torch.from_numpy(codes),
            frame_valid=torch.from_numpy(data.flat("frame_valid")[frames]),
            status=torch.from_numpy(self.status(frames)),
            **{name: torch.from_numpy(values) for name, values in arrays.items()},
        )


def encode_dataset(data: Dataset, tokenizer: Tokenizer, path: Path, flipped: bool = False) -> np.ndarray:
    """Codes of all frames, read from a file, or encoded and written to it.

    Args:
        data: the dataset.
        tokenizer: encodes on its device.
        path: a .npy file of this dataset and tokenizer; it need not exist.
        flipped: flip the frames left to right first.

    Returns:
        (F, h, w) int32, mapped from the file, so that it takes no memory of its own.
    """
    if not path.exists():
        check_free_space(path, 4 * data.num_frames * math.prod(tokenizer.grid), f"encoding {data.name}")
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            header = {"descr": "<i4", "fortran_order": False, "shape": (data.num_frames, *tokenizer.grid)}
            np.lib.format.write_array_header_1_0(file, header)
            for codes in _encode_episodes(data, tokenizer, flipped):
                file.write(codes.astype("<i4").tobytes())
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _encode_episodes(data: Dataset, tokenizer: Tokenizer, flipped: bool) -> Iterator[np.ndarray]:
    """Codes of all frames in order, (n, h, w) at a time; a causal tokenizer encodes each episode as one sequence."""
    device = tokenizer.pixel_mean.device
    for number in range(data.num_episodes):
        state = tokenizer.init_encoder_state(1)
        for start in range(0, int(data.lengths[number]) + 1, ENCODED_FRAMES):
            frames = torch.from_numpy(data.frames(number, start, start + ENCODED_FRAMES)).to(device)
            frames = frames.flip(-2) if flipped else frames
            codes, state = tokenizer.encode_next(frames[None], state)
            yield codes[0].cpu().numpy()
