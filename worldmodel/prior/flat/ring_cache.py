"""The flat prior's memory: keys and values of the last frames, in a ring of fixed shape that is written in place.

The frame at time t stands in slot t mod M of its row, so that neither its place nor the order of sums over the
memory depends on other rows. A frame is drawn behind the ring, while the one it displaces is still seen, and is then
copied into its slot.

Shapes: B rows, T frames, S positions a frame, M frames of memory, L layers, G heads of keys and values, d numbers a
head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel.prior.flat.cached_layer import beside

Pairs = list[tuple[Tensor, Tensor]]  # keys and values of each layer, (B, G, T*S, d)


def as_read(pairs: Pairs, turned: bool) -> tuple[Tensor, Tensor]:
    """Keys and values of a reading in the order in which writing reads them fastest.

    Args:
        pairs: of L layers, from `RasterNetwork.read`.
        turned: whether `Rotary` turned the keys.

    Returns:
        (B, G, L, d, T*S) and (B, G, L, T*S, d) float32.
    """
    keys = torch.stack([beside(k, 3) if turned else k for k, _ in pairs], 2)  # (B, G, L, T*S, d)
    return keys.transpose(3, 4).float().contiguous(), torch.stack([v for _, v in pairs], 2).float()


def make_ring(pairs: Pairs, turned: bool, times: Tensor, memory: int) -> tuple[Tensor, Tensor]:
    """A ring that holds a reading.

    Args:
        pairs: of L layers, from `RasterNetwork.read`.
        turned: whether `Rotary` turned the keys.
        times: (B, T) int64, one after the other, T <= M.
        memory: M.

    Returns:
        (B, G, L, d, (M+1)*S) and (B, G, L, (M+1)*S, d) float32, zeros where no frame stands.
    """
    keys, values = as_read(pairs, turned)
    length = times.shape[1]
    rows, slots = torch.arange(len(times), device=times.device)[:, None], times % memory
    some_keys, some_values = keys.unflatten(4, (length, -1)), values.unflatten(3, (length, -1))
    size = some_keys.shape[5]
    ring_keys = keys.new_zeros(*keys.shape[:4], memory + 1, size)  # (B, G, L, d, M+1, S)
    ring_values = values.new_zeros(*values.shape[:3], memory + 1, size, values.shape[4])  # (B, G, L, M+1, S, d)
    ring_keys[rows, :, :, :, slots] = some_keys.permute(0, 4, 1, 2, 3, 5)
    ring_values[rows, :, :, slots] = some_values.permute(0, 3, 1, 2, 4, 5)
    return ring_keys.flatten(4), ring_values.flatten(3, 4)


def keep_frame(keys: Tensor, values: Tensor, slots: Tensor, size: int) -> None:
    """Copy the frame behind the ring into a slot of each row, in place.

    Args:
        keys: (B, G, L, d, (M+1)*S).
        values: (B, G, L, (M+1)*S, d).
        slots: (B,) int64 in [0, M).
        size: S.
    """
    rows = torch.arange(len(slots), device=slots.device)
    ring_keys, ring_values = keys.unflatten(4, (-1, size)), values.unflatten(3, (-1, size))
    ring_keys[rows, :, :, :, slots] = ring_keys[:, :, :, :, -1]
    ring_values[rows, :, :, slots] = ring_values[:, :, :, -1]
