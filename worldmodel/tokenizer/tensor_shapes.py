"""Latents as vectors and back, and the part of a frame that a tokenizer encodes."""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel.common.errors import UserError
from worldmodel.tokenizer.tokenizer_config import TokenizerConfig


def encoded_part(
    config: TokenizerConfig, frame_shape: tuple[int, int, int]
) -> tuple[tuple[slice, slice], tuple[int, int, int]]:
    """Rows and columns of a frame that are encoded, and the shape of that part.

    Raises:
        UserError: it is not inside the frame.
    """
    height, width, _ = frame_shape
    top, bottom, left, right = config.encoded or (0, height, 0, width)
    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
        raise UserError(
            f"tokenizer encoded={config.encoded} is not inside frames of {height} x {width} pixels: wanted "
            "0 <= top < bottom <= rows and 0 <= left < right <= columns."
        )
    return (slice(top, bottom), slice(left, right)), (bottom - top, right - left, 3)


def to_vectors(latents: Tensor) -> Tensor:
    """(N, d, ...) -> (N*places, d)."""
    return latents.movedim(1, -1).flatten(0, -2)


def to_latents(vectors: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `to_vectors`, given the latents' shape."""
    return vectors.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1).contiguous()
