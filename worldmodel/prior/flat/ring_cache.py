"""The flat prior's memory: keys and values of the last frames, in a ring buffer of fixed shape, written in place.

The frame at time t is stored in slot t mod M of its row, so neither its slot nor the order of sums over the cache
depends on other rows. A new frame is sampled into the room behind the ring, while the frame that it replaces is still
visible, and is then copied into its slot.

Shapes: B rows, T frames, S positions per frame, M frames of memory, L layers, G key/value heads, d numbers per head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from worldmodel.prior.flat.cached_block import interleave_pairs

LayerKeyValues = list[tuple[Tensor, Tensor]]  # keys and values of each layer, (B, G, T*S, d) each


class KeyValueCache(NamedTuple):
    """Keys and values of n frames in any order, and room for one frame more.

    Attributes:
        keys: (B, G, L, d, (n+1)*S) float32; a new frame is written into the last S positions.
        values: (B, G, L, (n+1)*S, d) float32; likewise.
        visible: (B, n) bool, which of the n frames are attended to.
    """

    keys: Tensor
    values: Tensor
    visible: Tensor


def to_cache_layout(key_values: LayerKeyValues, has_rotary: bool) -> tuple[Tensor, Tensor]:
    """Keys and values of whole clips in the memory order that sampling reads fastest.

    Args:
        key_values: of L layers, from `RasterTransformer.forward`.
        has_rotary: whether the keys are rotated.

    Returns:
        (B, G, L, d, T*S) and (B, G, L, T*S, d) float32.
    """
    keys = torch.stack([interleave_pairs(k, 3) if has_rotary else k for k, _ in key_values], 2)  # (B, G, L, T*S, d)
    return keys.transpose(3, 4).float().contiguous(), torch.stack([v for _, v in key_values], 2).float()


def init_ring(key_values: LayerKeyValues, has_rotary: bool, times: Tensor, valid: Tensor, memory: int) -> KeyValueCache:
    """A ring that holds the frames of whole clips, and room for one frame more.

    Args:
        key_values: of L layers, from `RasterTransformer.forward`.
        has_rotary: whether the keys are rotated.
        times: (B, T) int64, consecutive, T <= M.
        valid: (B, T) bool, which frames are visible.
        memory: M.

    Returns:
        M frames; keys and values are zero where no frame is stored.
    """
    keys, values = to_cache_layout(key_values, has_rotary)
    length = times.shape[1]
    rows, slots = torch.arange(len(times), device=times.device)[:, None], times % memory
    frame_keys, frame_values = keys.unflatten(4, (length, -1)), values.unflatten(3, (length, -1))
    size = frame_keys.shape[5]  # S
    ring_keys = keys.new_zeros(*keys.shape[:4], memory + 1, size)  # (B, G, L, d, M+1, S)
    ring_values = values.new_zeros(*values.shape[:3], memory + 1, size, values.shape[4])  # (B, G, L, M+1, S, d)
    ring_keys[rows, :, :, :, slots] = frame_keys.permute(0, 4, 1, 2, 3, 5)
    ring_values[rows, :, :, slots] = frame_values.permute(0, 3, 1, 2, 4, 5)
    visible = valid.new_zeros(len(times), memory).scatter(1, slots, valid)
    return KeyValueCache(ring_keys.flatten(4), ring_values.flatten(3, 4), visible)


def store_frame(ring: KeyValueCache, times: Tensor, has_frame: Tensor, num_positions: int) -> KeyValueCache:
    """Copy the frame behind the ring into its slot of each row. Keys and values are written in place.

    Args:
        ring: M frames.
        times: (B,) int64, of the new frame.
        has_frame: (B,) bool, whether it is visible to later frames.
        num_positions: S.

    Returns:
        The ring with the frame: the same keys and values, and which frames are visible now.
    """
    slots, rows = times % ring.visible.shape[1], torch.arange(len(times), device=times.device)
    ring_keys, ring_values = ring.keys.unflatten(4, (-1, num_positions)), ring.values.unflatten(3, (-1, num_positions))
    ring_keys[rows, :, :, :, slots] = ring_keys[:, :, :, :, -1]
    ring_values[rows, :, :, slots] = ring_values[:, :, :, -1]
    return ring._replace(visible=ring.visible.scatter(1, slots[:, None], has_frame[:, None]))
