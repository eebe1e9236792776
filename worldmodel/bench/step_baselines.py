"""Four ways to draw a frame's codes from one flat prior: with its cache, and as samplers elsewhere do.

All are given the same weights, codes, conditions and uniform numbers, and draw codes alone: end, status
and reward cost each of them the same.

Shapes: B rows, T frames, h w code grid, K = h*w codes a frame, S = K+1 positions, M frames of memory, L layers,
G heads of keys and values, d numbers a head, C condition width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from worldmodel.prior.flat.flat_layers import FlatBlock
from worldmodel.prior.flat.frame_sampling import sample_frame
from worldmodel.prior.flat.raster_transformer import RasterTransformer
from worldmodel.prior.flat.ring_cache import KeyValueCache, init_ring, store_frame, to_cache_layout
from worldmodel.prior.flat.rotary import rotate
from worldmodel.prior.sampling import Sampling

SAMPLING = Sampling()


@dataclass(frozen=True)
class Script:
    """What a dream is given, whichever way it is drawn.

    Attributes:
        pictures: (B, n, h, w) int64, the frames it begins from.
        conditions: (B, T, C), what each frame is told, those first ones too.
        draws: (B, T, K) float32 in [0, 1), the uniform numbers of each frame.
    """

    pictures: Tensor
    conditions: Tensor
    draws: Tensor

    @staticmethod
    def random(network: RasterTransformer, rows: int, begin: int, length: int) -> Script:
        """Of T = `length` frames, the first n = `begin` of them of random codes."""
        generator = torch.Generator().manual_seed(0)
        shape = (rows, begin, *network.grid)
        return Script(
            torch.randint(network.num_codes, shape, generator=generator),
            torch.randn(rows, length, network.condition_dim, generator=generator),
            torch.rand(rows, length, network.num_positions - 1, generator=generator),
        )

    @property
    def length(self) -> int:
        """T; beyond it conditions and numbers come again."""
        return self.conditions.shape[1]

    @property
    def times(self) -> Tensor:
        """(B, T) int64."""
        return torch.arange(self.length).expand(len(self.conditions), -1)


class Cached:
    """Ours: `sample_frame` and a ring of keys and values of the last M frames."""

    def __init__(self, network: RasterTransformer, script: Script) -> None:
        self.network, self.script, self.time = network, script, script.pictures.shape[1]
        seen = script.pictures[:, -network.memory :]
        begin = slice(self.time - seen.shape[1], self.time)
        valid, times = torch.ones(seen.shape[:2], dtype=torch.bool), script.times[:, begin]
        pairs = network(seen, valid, script.conditions[:, begin], times)[2]
        self.keys, self.values = init_ring(pairs, network.rotary is not None, times, network.memory)
        blank = torch.zeros(len(seen), network.memory, dtype=torch.bool)
        self.seen, self.last = blank.scatter(1, times % network.memory, valid), seen[:, -1]

    @torch.no_grad()
    def frame(self) -> Tensor:
        """Draw the next frame: (B, h, w)."""
        script, network, at = self.script, self.network, self.time % self.script.length
        times = torch.full((len(self.seen),), self.time)
        past = (KeyValueCache(self.keys, self.values, self.seen), self.last)
        told, draws = script.conditions[:, at], script.draws[:, at]
        self.last = sample_frame(network, *past, times, told, draws, SAMPLING)[0]
        slots = times % network.memory
        store_frame(self.keys, self.values, slots, network.num_positions)
        self.seen.scatter_(1, slots[:, None], True)
        self.time += 1
        return self.last


class Appended:
    """A cache as it is usually written: the layers' modules code by code, keys and values put behind the others."""

    def __init__(self, network: RasterTransformer, script: Script) -> None:
        self.network, self.script, self.time = network, script, script.pictures.shape[1]
        seen = script.pictures[:, -network.memory :]
        begin = slice(self.time - seen.shape[1], self.time)
        valid = torch.ones(seen.shape[:2], dtype=torch.bool)
        self.pairs = network(seen, valid, script.conditions[:, begin], script.times[:, begin])[2]
        self.last = seen[:, -1]

    def _block(self, i: int, x: Tensor, told: Tensor, turns: Tensor | None) -> Tensor:
        """A layer at one position: (B, 1, D) -> (B, 1, D)."""
        block = cast("FlatBlock", self.network.blocks[i])
        heads, groups = block.num_heads, block.num_kv_heads
        qkv = rearrange(block.qkv_proj(block.norm_attention(x, told)), "b n (a d) -> b a n d", a=heads + 2 * groups)
        q, k, v = qkv.split([heads, groups, groups], 1)  # (B, H or G, 1, d)
        if turns is not None:
            q, k = rotate(q, turns[0]), rotate(k, turns[1])
        keys, values = (torch.cat(pair, 2) for pair in zip(self.pairs[i], (k, v), strict=True))
        self.pairs[i] = keys, values
        y = F.scaled_dot_product_attention(q, keys, values, enable_gqa=groups < heads)
        x = x + block.out_proj(rearrange(y, "b h n d -> b n (h d)"))
        return x + block.down_proj(F.gelu(block.up_proj(block.norm_feedforward(x, told)), approximate="tanh"))

    @torch.no_grad()
    def frame(self) -> Tensor:
        """Draw the next frame: (B, h, w)."""
        network, at = self.network, self.time % self.script.length
        told, times = self.script.conditions[:, at], torch.full((len(self.last), 1), self.time)
        given = network.position_inputs(self.last[:, None], times)[:, 0]  # (B, S, D)
        all_turns = None if network.rotary is None else network.rotary.cos_sin(times)  # (2, 2, B, 1, S, E)
        x, codes = network.start_token.expand_as(given[:, :1]), []
        for n in range(network.num_positions):
            x = x + given[:, n : n + 1]
            for i in range(len(network.blocks)):
                x = self._block(i, x, told, None if all_turns is None else all_turns[..., n : n + 1, :])
            if n < network.num_positions - 1:
                logits = network.code_head(network.norm(x, told))[:, 0] + network.place_bias[n]  # (B, V)
                codes.append(SAMPLING.sample(logits, self.script.draws[:, at, n]))
                x = network.code_embed(codes[-1])[:, None]
        self.pairs = [(k[:, :, -self._room :], v[:, :, -self._room :]) for k, v in self.pairs]
        self.last = torch.stack(codes, 1).unflatten(1, network.grid)
        self.time += 1
        return self.last

    @property
    def _room(self) -> int:
        """Positions of the M last frames."""
        return self.network.memory * self.network.num_positions


class Recomputed:
    """Without a cache: the full forward over all frames for every code, as a sampler written in a day does.

    It reads whole frames; what stands behind the code that is drawn is seen by no one before it.
    """

    def __init__(self, network: RasterTransformer, script: Script) -> None:
        self.network, self.script, self.place = network, script, 0
        self.pictures = F.pad(script.pictures, (0, 0, 0, 0, 0, 1))  # (B, n+1, h, w), the last to be drawn

    @torch.no_grad()
    def code(self) -> None:
        """Draw the next code of the last frame; after its last code begin that frame anew."""
        batch, length = self.pictures.shape[:2]
        valid, script = torch.ones(batch, length, dtype=torch.bool), self.script
        told, times = script.conditions[:, :length], script.times[:, :length]
        logits = self.network(self.pictures, valid, told, times)[0][:, -1, self.place]  # (B, V)
        row, column = divmod(self.place, self.network.grid[1])
        self.pictures[:, -1, row, column] = SAMPLING.sample(logits.float(), script.draws[:, length - 1, self.place])
        self.place = (self.place + 1) % (self.network.num_positions - 1)

    def frame(self) -> Tensor:
        """Draw a whole frame, (B, h, w), and go on to the next."""
        for _ in range(self.network.num_positions - 1):
            self.code()
        drawn = self.pictures[:, -1]
        self.pictures = F.pad(self.pictures, (0, 0, 0, 0, 0, 1))
        return drawn


class Flushed:
    """A cache that is emptied when it is full: up to M frames before the one that is drawn, then half a window anew.

    Its keys and values are written in place, and only what is filled is looked at.
    """

    def __init__(self, network: RasterTransformer, script: Script) -> None:
        self.network, self.script, self.time = network, script, script.pictures.shape[1]
        memory = network.memory
        self.half = max(1, memory // 2)
        self.cycle = memory + 1 - self.half  # frames from one refill to the next
        self.pictures = script.pictures[:, -memory - 1 :]
        self.filled = 0  # frames
        self._fill(min(memory, self.pictures.shape[1]))

    def _fill(self, frames: int) -> None:
        """Read the last frames into an empty cache."""
        network, self.pictures = self.network, self.pictures[:, -frames:]
        times = torch.arange(self.time - frames, self.time).expand(len(self.pictures), -1)
        valid = torch.ones(times.shape, dtype=torch.bool)
        told = self.script.conditions[:, times[0] % self.script.length]
        pairs = network(self.pictures, valid, told, times)[2]
        keys, values = to_cache_layout(pairs, network.rotary is not None)
        room = (network.memory + 1 - frames) * network.num_positions
        self.keys, self.values, self.filled = F.pad(keys, (0, room)), F.pad(values, (0, 0, 0, room)), frames

    @torch.no_grad()
    def frame(self) -> Tensor:
        """Draw the next frame: (B, h, w)."""
        network, memory = self.network, self.network.memory
        if self.filled == memory + 1:
            self._fill(self.half)
        at, end = self.time % self.script.length, (self.filled + 1) * network.num_positions
        seen = torch.ones(len(self.pictures), self.filled, dtype=torch.bool)
        filled = (KeyValueCache(self.keys[..., :end], self.values[..., :end, :], seen), self.pictures[:, -1])
        times, told = torch.full((len(seen),), self.time), self.script.conditions[:, at]
        drawn = sample_frame(network, *filled, times, told, self.script.draws[:, at], SAMPLING)[0]
        self.pictures = torch.cat([self.pictures, drawn[:, None]], 1)
        self.filled += 1
        self.time += 1
        return drawn


@torch.no_grad()
def same_codes(network: RasterTransformer) -> bool:
    """Do the ways draw the same codes wherever they are to be the same?

    Ours, the recomputed and the appended one from the first frame on and beyond the window's end, over twice the
    window; the flushed one until its first flush.
    """
    memory = network.memory
    script = Script.random(network, 1, 1, 2 * memory + 1)
    cached, flushed = Cached(network, script), Flushed(network, script)
    others = (Recomputed(network, script), Appended(network, script))
    for time in range(1, script.length):
        codes = cached.frame()
        drawn = [other.frame() for other in others] + ([flushed.frame()] if time <= memory else [])
        if not all(torch.equal(codes, frame) for frame in drawn):
            return False
    return True
