"""Sampling from logits with counter-based random numbers: the same seed gives the same dream in any batch.

Every uniform number is a pure function of (row seed, episode number, step, stream, position), computed by Philox
4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") in int64 tensors. There is no generator
state to save, and a row's numbers do not depend on the other rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.common import random as numpy_random
from worldmodel.common.random import MASK, MULTIPLIERS, ROUNDS, STREAM_START, STREAM_STEP, WEYL
from worldmodel.common.sampling_options import SamplingOptions

__all__ = ["STREAM_START", "STREAM_STEP", "Sampling", "inverse_cdf", "philox", "uniforms"]


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a 32 x 32 bit product. int64 wraps modulo 2^64, so no bit of it is lost."""
    product = b * a
    return (product >> 32) & MASK, product & MASK


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> Tensor:
    """Philox 4x32 with ten rounds.

    Args:
        counter: four int64 tensors in [0, 2^32), of shapes that broadcast.
        key: two more.

    Returns:
        (..., 4) int64 in [0, 2^32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        high0, low0 = _multiply(MULTIPLIERS[0], c0)
        high1, low1 = _multiply(MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return torch.stack(torch.broadcast_tensors(c0, c1, c2, c3), -1)


def uniforms(seeds: Tensor, episodes: Tensor, steps: Tensor, num: int, stream: int = STREAM_STEP) -> Tensor:
    """Uniform numbers for one step of each row.

    Args:
        seeds: (B,) int64, one per row; all 64 bits are used.
        episodes: (B,) int64, the row's episode number in [0, 2^32).
        steps: (B,) int64, the step within the episode in [0, 2^32).
        num: numbers per row.
        stream: `STREAM_STEP` or `STREAM_START`: different uses get independent numbers.

    Returns:
        (B, num) float32 in [0, 1), multiples of 2^-24.
    """
    if seeds.device.type == "cpu":  # the same numbers in a quarter of the time
        return torch.from_numpy(numpy_random.uniforms(seeds.numpy(), episodes.numpy(), steps.numpy(), num, stream))
    blocks = torch.arange((num + 3) // 4, device=seeds.device)[None]  # (1, blocks of four)
    counter = (blocks, steps[:, None], episodes[:, None], torch.full_like(blocks, stream))
    key = ((seeds & MASK)[:, None], ((seeds >> 32) & MASK)[:, None])
    words = philox(counter, key).flatten(1)[:, :num]  # (B, blocks, 4) -> (B, num)
    return (words >> 8).float() * 2.0**-24


@dataclass(frozen=True)
class Sampling(SamplingOptions):
    """How codes are sampled; see `SamplingOptions` for the other fields.

    Attributes:
        exact: which log-probability is returned for a frame sampled from a mixture of K components. True: the
            mixture's, which costs K more passes of the decoder. False: that of the frame and the sampled component
            together, which is never greater and on average at most ln K nats less. Without a mixture both are equal.
    """

    exact: bool = True

    def sample(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        """Sample a code for each place.

        Args:
            logits: (..., V) float.
            uniforms: (...) float32 in [0, 1), one uniform number per place.

        Returns:
            (...) int64 in [0, V).
        """
        if self.temperature == 0 or self.top_k == 1:
            return logits.argmax(-1)
        logits = logits.float()
        if self.temperature != 1:
            logits = logits / self.temperature
        if 0 < self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, dim=-1).values[..., -1:]
            logits = logits.masked_fill(logits < least, float("-inf"))
        if self.top_p < 1:
            ordered, order = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
            before = ordered.cumsum(-1) - ordered  # probability of all likelier codes
            dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= self.top_p)
            logits = logits.masked_fill(dropped, float("-inf"))
        return inverse_cdf(logits, uniforms)


def inverse_cdf(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Sample a category: the first whose cumulative probability exceeds a uniform number.

    Args:
        logits: (..., V) float.
        uniforms: (...) float32 in [0, 1).

    Returns:
        (...) int64 in [0, V), never one of probability 0.
    """
    cumulative = logits.float().softmax(-1).cumsum(-1)
    # if rounding made the threshold equal to the total, no category would exceed it
    threshold = cumulative[..., -1] * uniforms.clamp_max(1 - 2.0**-23)
    return torch.searchsorted(cumulative, threshold[..., None], right=True)[..., 0]  # how many do not exceed it
