"""Four methods to sample a frame's codes from one flat prior: its own ring cache, and three usual ones.

All have the same weights, first frames, conditions and uniform numbers. They sample codes alone: termination, status
and reward cost each of them the same. For whole dreams with these methods see `memory_methods`.

Shapes: B rows, T frames, h w code grid, K = h*w codes per frame, S = K+1 positions, M frames of memory, L layers,
G key-value heads, d numbers per head, C condition width, V codes in the codebook.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from worldmodel.bench.memory_methods import flush_cycle, refill_frames
from worldmodel.prior.flat.flat_layers import FlatBlock
from worldmodel.prior.flat.frame_sampling import sample_frame
from worldmodel.prior.flat.raster_transformer import RasterTransformer
from worldmodel.prior.flat.ring_cache import KeyValueCache, init_ring, store_frame, to_cache_layout
from worldmodel.prior.flat.rotary import rotate
from worldmodel.prior.sampling import Sampling

SAMPLING = Sampling()


@dataclass(frozen=True)
class SamplerInputs:
    """The inputs of every method.

    Attributes:
        codes: (B, n, h, w) int64, the first frames.
        conditions: (B, T, C), the condition of each frame, the first ones included.
        uniforms: (B, T, K) float32 in [0, 1), the uniform numbers of each frame.
    """

    codes: Tensor
    conditions: Tensor
    uniforms: Tensor

    @staticmethod
    def random(network: RasterTransformer, rows: int, context: int, length: int) -> SamplerInputs:
        """Random inputs for T = `length` frames, the first n = `context` of them of random codes."""
        generator = torch.Generator().manual_seed(0)
        shape = (rows, context, *network.grid)
        return SamplerInputs(
            torch.randint(network.num_codes, shape, generator=generator),
            torch.randn(rows, length, network.condition_dim, generator=generator),
            torch.rand(rows, length, network.num_positions - 1, generator=generator),
        )

    @property
    def length(self) -> int:
        """T; later frames use the conditions and numbers again from the first on."""
        return self.conditions.shape[1]

    @property
    def times(self) -> Tensor:
        """(B, T) int64."""
        return torch.arange(self.length).expand(len(self.conditions), -1)


class RingCacheSampler:
    """The prior's own method: a ring of the keys and values of the last M frames."""

    def __init__(self, network: RasterTransformer, inputs: SamplerInputs) -> None:
        self.network, self.inputs, self.time = network, inputs, inputs.codes.shape[1]
        codes = inputs.codes[:, -network.memory :]
        read = slice(self.time - codes.shape[1], self.time)
        valid, times = torch.ones(codes.shape[:2], dtype=torch.bool), inputs.times[:, read]
        pairs = network(codes, valid, inputs.conditions[:, read], times)[2]
        self.ring = init_ring(pairs, network.rotary is not None, times, valid, network.memory)
        self.last, self.has_frame = codes[:, -1], valid[:, -1]

    @torch.no_grad()
    def sample_frame(self) -> Tensor:
        """Sample the next frame: (B, h, w)."""
        inputs, network, index = self.inputs, self.network, self.time % self.inputs.length
        times = torch.full((len(self.last),), self.time)
        condition, uniforms = inputs.conditions[:, index], inputs.uniforms[:, index]
        self.last = sample_frame(network, self.ring, self.last, times, condition, uniforms, SAMPLING)[0]
        self.ring = store_frame(self.ring, times, self.has_frame, network.num_positions)
        self.time += 1
        return self.last


class AppendedCacheSampler:
    """A cache as it is usually written: the layers' modules run code by code, and `torch.cat` appends to the cache."""

    def __init__(self, network: RasterTransformer, inputs: SamplerInputs) -> None:
        self.network, self.inputs, self.time = network, inputs, inputs.codes.shape[1]
        codes = inputs.codes[:, -network.memory :]
        read = slice(self.time - codes.shape[1], self.time)
        valid = torch.ones(codes.shape[:2], dtype=torch.bool)
        self.pairs = network(codes, valid, inputs.conditions[:, read], inputs.times[:, read])[2]
        self.last = codes[:, -1]

    def _block(self, i: int, x: Tensor, condition: Tensor, rotations: Tensor | None) -> Tensor:
        """A layer at one position: (B, 1, D) -> (B, 1, D)."""
        block = cast("FlatBlock", self.network.blocks[i])
        heads, groups = block.num_heads, block.num_kv_heads
        qkv = rearrange(
            block.qkv_proj(block.norm_attention(x, condition)), "b n (a d) -> b a n d", a=heads + 2 * groups
        )
        q, k, v = qkv.split([heads, groups, groups], 1)  # (B, H or G, 1, d)
        if rotations is not None:
            q, k = rotate(q, rotations[0]), rotate(k, rotations[1])
        keys, values = (torch.cat(pair, 2) for pair in zip(self.pairs[i], (k, v), strict=True))
        self.pairs[i] = keys, values
        y = F.scaled_dot_product_attention(q, keys, values, enable_gqa=groups < heads)
        x = x + block.out_proj(rearrange(y, "b h n d -> b n (h d)"))
        return x + block.down_proj(F.gelu(block.up_proj(block.norm_feedforward(x, condition)), approximate="tanh"))

    @torch.no_grad()
    def sample_frame(self) -> Tensor:
        """Sample the next frame: (B, h, w)."""
        network, index = self.network, self.time % self.inputs.length
        condition, times = self.inputs.conditions[:, index], torch.full((len(self.last), 1), self.time)
        given = network.position_inputs(self.last[:, None], times)[:, 0]  # (B, S, D)
        rotations = None if network.rotary is None else network.rotary.cos_sin(times)  # (2, 2, B, 1, S, E)
        x, codes = network.start_token.expand_as(given[:, :1]), []
        for n in range(network.num_positions):
            x = x + given[:, n : n + 1]
            for i in range(len(network.blocks)):
                x = self._block(i, x, condition, None if rotations is None else rotations[..., n : n + 1, :])
            if n < network.num_positions - 1:
                logits = network.code_head(network.norm(x, condition))[:, 0] + network.place_bias[n]  # (B, V)
                codes.append(SAMPLING.sample(logits, self.inputs.uniforms[:, index, n]))
                x = network.code_embed(codes[-1])[:, None]
        self.pairs = [(k[:, :, -self._room :], v[:, :, -self._room :]) for k, v in self.pairs]
        self.last = torch.stack(codes, 1).unflatten(1, network.grid)
        self.time += 1
        return self.last

    @property
    def _room(self) -> int:
        """Positions of the last M frames."""
        return self.network.memory * self.network.num_positions


class RecomputeSampler:
    """No cache: one forward pass over all frames for every code, the simplest sampler.

    A pass reads whole frames, with arbitrary codes behind the one that is sampled: the causal mask hides them.
    """

    def __init__(self, network: RasterTransformer, inputs: SamplerInputs) -> None:
        self.network, self.inputs, self.place = network, inputs, 0
        self.codes = F.pad(inputs.codes, (0, 0, 0, 0, 0, 1))  # (B, n+1, h, w), the last one to be sampled

    @torch.no_grad()
    def sample_code(self) -> None:
        """Sample the next code of the last frame; after the frame's last code, its first one again."""
        batch, length = self.codes.shape[:2]
        valid, inputs = torch.ones(batch, length, dtype=torch.bool), self.inputs
        conditions, times = inputs.conditions[:, :length], inputs.times[:, :length]
        logits = self.network(self.codes, valid, conditions, times)[0][:, -1, self.place]  # (B, V)
        row, column = divmod(self.place, self.network.grid[1])
        uniforms = inputs.uniforms[:, length - 1, self.place]  # (B,)
        self.codes[:, -1, row, column] = SAMPLING.sample(logits.float(), uniforms)
        self.place = (self.place + 1) % (self.network.num_positions - 1)

    def sample_frame(self) -> Tensor:
        """Sample a whole frame, (B, h, w), and append the next one."""
        for _ in range(self.network.num_positions - 1):
            self.sample_code()
        sampled = self.codes[:, -1]
        self.codes = F.pad(self.codes, (0, 0, 0, 0, 0, 1))
        return sampled


class FlushedCacheSampler:
    """A cache that is dropped when it holds M+1 frames, and refilled with the last half window.

    Its keys and values are written in place, and attention reads only the part that is filled.
    """

    def __init__(self, network: RasterTransformer, inputs: SamplerInputs) -> None:
        self.network, self.inputs, self.time = network, inputs, inputs.codes.shape[1]
        memory = network.memory
        self.refill, self.cycle = refill_frames(memory), flush_cycle(memory)
        self.codes = inputs.codes[:, -memory - 1 :]
        self.num_cached = 0  # frames
        self._fill(min(memory, self.codes.shape[1]))

    def _fill(self, frames: int) -> None:
        """Read the last frames into an empty cache."""
        network, self.codes = self.network, self.codes[:, -frames:]
        times = torch.arange(self.time - frames, self.time).expand(len(self.codes), -1)
        valid = torch.ones(times.shape, dtype=torch.bool)
        conditions = self.inputs.conditions[:, times[0] % self.inputs.length]
        pairs = network(self.codes, valid, conditions, times)[2]
        keys, values = to_cache_layout(pairs, network.rotary is not None)
        room = (network.memory + 1 - frames) * network.num_positions
        self.keys, self.values, self.num_cached = F.pad(keys, (0, room)), F.pad(values, (0, 0, 0, room)), frames

    @torch.no_grad()
    def sample_frame(self) -> Tensor:
        """Sample the next frame: (B, h, w)."""
        network, memory = self.network, self.network.memory
        if self.num_cached == memory + 1:
            self._fill(self.refill)
        index, end = self.time % self.inputs.length, (self.num_cached + 1) * network.num_positions
        valid = torch.ones(len(self.codes), self.num_cached, dtype=torch.bool)
        past = (KeyValueCache(self.keys[..., :end], self.values[..., :end, :], valid), self.codes[:, -1])
        times, condition = torch.full((len(valid),), self.time), self.inputs.conditions[:, index]
        sampled = sample_frame(network, *past, times, condition, self.inputs.uniforms[:, index], SAMPLING)[0]
        self.codes = torch.cat([self.codes, sampled[:, None]], 1)
        self.num_cached += 1
        self.time += 1
        return sampled


@torch.no_grad()
def same_codes(network: RasterTransformer) -> bool:
    """Whether the methods sample the same codes wherever they must.

    Ring cache, recompute and appended cache must agree from the first frame on, over twice the window and so beyond
    its end; the flushed cache until its first flush.
    """
    memory = network.memory
    inputs = SamplerInputs.random(network, 1, 1, 2 * memory + 1)
    ring, flushed = RingCacheSampler(network, inputs), FlushedCacheSampler(network, inputs)
    others = (RecomputeSampler(network, inputs), AppendedCacheSampler(network, inputs))
    for time in range(1, inputs.length):
        codes = ring.sample_frame()
        sampled = [other.sample_frame() for other in others]
        if time <= memory:
            sampled.append(flushed.sample_frame())
        if not all(torch.equal(codes, frame) for frame in sampled):
            return False
    return True
