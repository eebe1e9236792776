"""Drawing a frame's codes: one position after the other, all rows at the same one.

Nothing is asked of the device on the way, and every frame is drawn by the same calls on the same shapes.

Shapes: B rows, S positions a frame, K = S-1 codes, N positions in the cache, L layers, G heads of keys and values, each
asked by R heads, d numbers a head, D width, C condition, V codes in the book.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.prior.flat.cached_layer import CachedLayer, Normal, group_rotations, read_weights
from worldmodel.prior.sampling import Sampling

if TYPE_CHECKING:
    from worldmodel.prior.flat.flat_layers import FrameBlock
    from worldmodel.prior.flat.raster_network import RasterNetwork

STRETCH = 16  # positions for which the part of the cache that is read stays the same


def draw_frame(
    network: RasterNetwork,
    keys: Tensor,
    values: Tensor,
    seen: Tensor,
    given: Tensor,
    times: Tensor,
    condition: Tensor,
    draws: Tensor,
    sampling: Sampling,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a frame of each row.

    Args:
        network: whose frame.
        keys: (B, G, L, d, N) float32; the frame's own are written into the last S.
        values: (B, G, L, N, d) float32, likewise.
        seen: (B, n) bool, which of the n frames before are seen.
        given: (B, S, D), what positions are given beside their codes.
        times: (B,) int64.
        condition: (B, C).
        draws: (B, K) float32 in [0, 1).
        sampling: how the codes are drawn.

    Returns:
        Codes (B, K) int64, their log-probability (B,), z (B, D).
    """
    device, blocks = keys.device, cast("list[FrameBlock]", list(network.blocks))
    dtype = network.norm.affine(condition).dtype  # what a product with weights gives here: autocast's, or float32
    rows, groups, size = len(times), keys.shape[1], network.size
    past = keys.shape[4] - size
    turns: tuple[Tensor | None, ...] = (None,) * size
    if network.rotary is not None:
        turns = group_rotations(network.rotary.turns(times[:, None]), blocks[0].num_heads // groups)
    layers = [
        CachedLayer(block, condition, keys[:, :, i], values[:, :, i], size, network.rotary is not None, dtype)
        for i, block in enumerate(blocks)
    ]
    norm = Normal(network.norm, condition, dtype)
    bias, weight = read_weights(network.logits, rows, dtype)
    biases = bias + network.prejudice.to(dtype)  # (K, V)
    visible = F.pad(seen.repeat_interleave(size, 1), (0, size))  # (B, N), none of its own yet
    mask = torch.zeros(visible.shape, dtype=torch.float32, device=device).masked_fill_(~visible, -torch.inf)
    mask = mask.repeat_interleave(groups, 0)[:, None]  # (B*G, 1, N)
    places, numbers, others = mask[..., past:].unbind(2), draws.unbind(1), given.unbind(1)
    said, codes = weight.new_empty(size - 1, rows, network.num_codes), []
    x = network.start + others[0]  # (B, D)
    for n in range(size):
        if n % STRETCH == 0:
            end = past + min(n + STRETCH, size)
            near = mask[..., :end]
            for layer in layers:
                layer.reach(end)
        places[n].zero_()
        for layer in layers:
            layer(x, n, near, turns[n])
        z = norm(x)
        if n < size - 1:
            torch.addmm(biases[n], z, weight, out=said[n])
            codes.append(sampling.draw(said[n].float(), numbers[n]))
            torch.add(network.embed(codes[-1]), others[n + 1], out=x)
    drawn = torch.stack(codes, 1)  # (B, K)
    nats = said.float().log_softmax(-1).gather(2, drawn.t()[..., None]).sum((0, 2))
    return drawn, nats, z.float()
