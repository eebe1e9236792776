"""Sampling a frame's codes from the flat prior: one position after the other, the same position in all rows.

Nothing waits for the device, and every frame is sampled by the same operations on the same shapes.

Shapes: B rows, h w code grid, S positions per frame, K = S-1 codes, n frames in the cache, N = (n+1)*S positions in the
cache, L layers, G key/value heads, D width, C condition width, V codes in the codebook.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.prior.cross_attention import CrossAttention
from worldmodel.prior.flat.cached_block import CachedBlock, FrameLayerNorm, addmm_weights, complex_rotations
from worldmodel.prior.flat.flat_layers import FlatBlock
from worldmodel.prior.flat.raster_transformer import RasterTransformer
from worldmodel.prior.flat.ring_cache import KeyValueCache
from worldmodel.prior.sampling import Sampling

CACHE_STRIDE = 16  # the attended length of the cache grows in steps of this many positions


def sample_frame(
    transformer: RasterTransformer,
    cache: KeyValueCache,
    previous: Tensor,
    times: Tensor,
    condition: Tensor,
    uniforms: Tensor,
    sampling: Sampling,
    features: Tensor | None = None,
    position_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample the next frame of each row; its keys and values are written into the cache's last S positions.

    Args:
        transformer: predicts the codes.
        cache: of the n frames before.
        previous: (B, h, w) int64, codes of the last frame, V where there is none.
        times: (B,) int64, of the new frame.
        condition: (B, C), of the new frame.
        uniforms: (B, K) float32 in [0, 1), one uniform number per code.
        sampling: how the codes are sampled.
        features: (B, n, D) of given frames, if the blocks attend to them.
        position_mask: (S, N) bool, the positions of the cache that each new position attends to; all visible if None.

    Returns:
        Codes (B, h, w) int64; their log-probability (B,) at temperature 1; z (B, D).
    """
    rows, size = len(times), transformer.num_positions
    dtype = transformer.norm.affine(condition).dtype  # of products with weights: autocast's, or float32
    inputs = transformer.position_inputs(previous[:, None], times[:, None])[:, 0].unbind(1)  # S of (B, D)
    code_uniforms = uniforms.unbind(1)
    rotations = _rotations(transformer, times)
    blocks = _cached_blocks(transformer, cache, condition, dtype)
    cross_updates = _cross_updates(transformer, condition, features)
    norm = FrameLayerNorm(transformer.norm, condition, dtype)
    bias, weight = addmm_weights(transformer.code_head, rows, dtype)
    biases = bias + transformer.place_bias.to(dtype)  # (K, V)
    masks = _position_masks(cache, size, position_mask)
    past = cache.keys.shape[4] - size
    logits, codes = weight.new_empty(size - 1, rows, transformer.num_codes), []
    x = transformer.start_token + inputs[0]  # (B, D)
    for position in range(size):
        if position % CACHE_STRIDE == 0:
            length = past + min(position + CACHE_STRIDE, size)
            for block in blocks:
                block.set_cache_length(length)
        mask = masks(position, length)
        for i, block in enumerate(blocks):
            block(x, position, mask, rotations[position])
            if cross_updates:
                x.add_(cross_updates[i](x))
        z = norm(x)
        if position < size - 1:
            torch.addmm(biases[position], z, weight, out=logits[position])
            codes.append(sampling.sample(logits[position].float(), code_uniforms[position]))
            torch.add(transformer.code_embed(codes[-1]), inputs[position + 1], out=x)
    sampled = torch.stack(codes, 1)  # (B, K)
    log_probs = logits.float().log_softmax(-1).gather(2, sampled.t()[..., None]).sum((0, 2))
    return sampled.unflatten(1, transformer.grid), log_probs, z.float()


def _rotations(transformer: RasterTransformer, times: Tensor) -> tuple[Tensor | None, ...]:
    """The rotation of each position, from `complex_rotations`; S times None without rotary positions."""
    if transformer.rotary is None:
        return (None,) * transformer.num_positions
    block = cast(FlatBlock, transformer.blocks[0])
    return complex_rotations(transformer.rotary.cos_sin(times[:, None]), block.num_heads // block.num_kv_heads)


def _cached_blocks(
    transformer: RasterTransformer, cache: KeyValueCache, condition: Tensor, dtype: torch.dtype
) -> list[CachedBlock]:
    return [
        CachedBlock(
            cast(FlatBlock, block),
            condition,
            cache.keys[:, :, i],
            cache.values[:, :, i],
            transformer.num_positions,
            transformer.rotary is not None,
            dtype,
        )
        for i, block in enumerate(transformer.blocks)
    ]


def _cross_updates(
    transformer: RasterTransformer, condition: Tensor, features: Tensor | None
) -> list[Callable[[Tensor], Tensor]]:
    """What attention to given frames adds after each block; empty without given frames."""
    if features is None:
        return []
    layers = (cast(CrossAttention, layer) for layer in transformer.cross_attention)
    return [layer.position_update(condition, features) for layer in layers]


def _position_masks(
    cache: KeyValueCache, num_positions: int, position_mask: Tensor | None
) -> Callable[[int, int], Tensor]:
    """The mask of each position of the frame: a function of its index and of the cache's attended length.

    Without `position_mask` the function is called once for each position, in order.

    Returns:
        A function with the result (B*G or 1, 1, length) float32, 0 where visible, else -inf.
    """
    if position_mask is not None:
        rows = torch.zeros(position_mask.shape, device=position_mask.device, dtype=torch.float32)
        rows.masked_fill_(~position_mask, -torch.inf)
        return lambda position, length: rows[position, None, None, :length]
    mask = _initial_mask(cache, num_positions)  # (B*G, 1, N)
    own_mask = mask[..., mask.shape[2] - num_positions :].unbind(2)  # S of (B*G, 1)

    def next_mask(position: int, length: int) -> Tensor:
        own_mask[position].zero_()
        return mask[..., :length]

    return next_mask


def _initial_mask(cache: KeyValueCache, num_positions: int) -> Tensor:
    """Mask over the cache before the frame's first position: (B*G, 1, N), 0 where visible, else -inf."""
    visible = F.pad(cache.visible.repeat_interleave(num_positions, 1), (0, num_positions))  # (B, N), none of its own
    mask = torch.zeros(visible.shape, device=visible.device, dtype=torch.float32)
    mask.masked_fill_(~visible, -torch.inf)
    return mask.repeat_interleave(cache.keys.shape[1], 0)[:, None]
