"""Three ways to draw a frame's codes from one flat prior: with its cache, and as samplers elsewhere do.

All three are given the same weights, codes, conditions and uniform numbers, and draw codes alone: end, status
and reward cost each of them the same.

Shapes: B rows, T frames, h w code grid, K = h*w codes a frame, S = K+1 positions, M frames of memory, L layers,
H heads, d numbers a head, C condition width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.prior.attention import FrameBlock
from worldmodel.prior.raster import RasterNetwork
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
    def random(network: RasterNetwork, rows: int, begin: int, length: int) -> Script:
        """Of T = `length` frames, the first n = `begin` of them of random codes."""
        generator = torch.Generator().manual_seed(0)
        shape = (rows, begin, *network.grid)
        return Script(
            torch.randint(network.num_codes, shape, generator=generator),
            torch.randn(rows, length, network.condition_dim, generator=generator),
            torch.rand(rows, length, network.size - 1, generator=generator),
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
    """Ours: `RasterNetwork.write`, a ring of keys and values of the last M frames."""

    def __init__(self, network: RasterNetwork, script: Script) -> None:
        self.network, self.script, self.time = network, script, script.pictures.shape[1]
        seen = script.pictures[:, -network.memory :]
        missing = network.memory - seen.shape[1]
        begin = slice(self.time - seen.shape[1], self.time)
        valid = torch.ones(seen.shape[:2], dtype=torch.bool)
        cache = network.read(seen, valid, script.conditions[:, begin], script.times[:, begin])[2]
        self.cache = F.pad(cache, (0, 0, missing * network.size, 0))  # (B, L, 2, H, M*S, d)
        self.seen, self.last = F.pad(valid, (missing, 0)), seen[:, -1]

    @torch.no_grad()
    def frame(self) -> Tensor:
        """Draw the next frame: (B, h, w)."""
        script, at = self.script, self.time % self.script.length
        times = torch.full((len(self.seen),), self.time)
        told, draws = script.conditions[:, at], script.draws[:, at]
        self.last, _, _, self.cache = self.network.write(self.cache, self.seen, self.last, times, told, draws, SAMPLING)
        self.seen = F.pad(self.seen[:, 1:], (0, 1), value=True)
        self.time += 1
        return self.last


class Recomputed:
    """Without a cache: the full forward over all frames for every code, as a sampler written in a day does.

    It reads whole frames; what stands behind the code that is drawn is seen by no one before it.
    """

    def __init__(self, network: RasterNetwork, script: Script) -> None:
        self.network, self.script, self.place = network, script, 0
        self.pictures = F.pad(script.pictures, (0, 0, 0, 0, 0, 1))  # (B, n+1, h, w), the last to be drawn

    @torch.no_grad()
    def code(self) -> None:
        """Draw the next code of the last frame; after its last code begin that frame anew."""
        batch, length = self.pictures.shape[:2]
        valid, script = torch.ones(batch, length, dtype=torch.bool), self.script
        told, times = script.conditions[:, :length], script.times[:, :length]
        logits = self.network.read(self.pictures, valid, told, times)[0][:, -1, self.place]  # (B, V)
        row, column = divmod(self.place, self.network.grid[1])
        self.pictures[:, -1, row, column] = SAMPLING.draw(logits.float(), script.draws[:, length - 1, self.place])
        self.place = (self.place + 1) % (self.network.size - 1)

    def frame(self) -> Tensor:
        """Draw a whole frame, (B, h, w), and go on to the next."""
        for _ in range(self.network.size - 1):
            self.code()
        drawn = self.pictures[:, -1]
        self.pictures = F.pad(self.pictures, (0, 0, 0, 0, 0, 1))
        return drawn


class Flushed:
    """A cache that is emptied when it is full: up to M frames before the one that is drawn, then half a window anew.

    Its keys and values are written in place, and only what is filled is looked at.
    """

    def __init__(self, network: RasterNetwork, script: Script) -> None:
        self.network, self.script, self.time = network, script, script.pictures.shape[1]
        memory, heads = network.memory, cast(FrameBlock, network.blocks[0]).num_heads
        self.half = max(1, memory // 2)
        self.cycle = memory + 1 - self.half  # frames from one refill to the next
        self.pictures = script.pictures[:, -memory - 1 :]
        width = network.start.shape[0] // heads
        shape = (len(self.pictures), len(network.blocks), 2, heads, (memory + 1) * network.size, width)
        self.cache = torch.zeros(shape)
        self.filled = 0
        self._fill(min(memory, self.pictures.shape[1]))

    def _fill(self, frames: int) -> None:
        """Read the last frames into the empty cache."""
        self.pictures = self.pictures[:, -frames:]
        times = torch.arange(self.time - frames, self.time).expand(len(self.pictures), -1)
        valid = torch.ones(times.shape, dtype=torch.bool)
        told = self.script.conditions[:, times[0] % self.script.length]
        self.filled = frames * self.network.size
        self.cache[..., : self.filled, :] = self.network.read(self.pictures, valid, told, times)[2]

    @torch.no_grad()
    def frame(self) -> Tensor:
        """Draw the next frame: (B, h, w)."""
        if self.filled == self.cache.shape[-2]:
            self._fill(self.half)
        network, at = self.network, self.time % self.script.length
        told, draws = self.script.conditions[:, at], self.script.draws[:, at]
        times = torch.full((len(told), 1), self.time)
        given = network._given(self.pictures[:, -1:], times)[:, 0]  # (B, S, D)
        turns = None if network.rotary is None else network.rotary.turns(times)[:, :, :, 0]  # (2, 2, B, S, E)
        mask = torch.ones(1, 1, 1, self.cache.shape[-2], dtype=torch.bool)
        blocks, (gain, bias) = [cast(FrameBlock, block) for block in network.blocks], network.norm.affine_of(told)
        affines = [block.affines(told) for block in blocks]
        x, codes = network.start.expand(len(told), -1), []
        for n in range(network.size):
            x = x + given[:, n]
            turned = None if turns is None else turns[:, :, :, n].permute(1, 2, 0, 3)[:, :, :, None]  # (2, B, 2, 1, E)
            for i, block in enumerate(blocks):
                x = block.append(x, affines[i], mask, turned, self.cache[:, i], self.filled + n)
            if n < network.size - 1:
                normal = torch.addcmul(bias, F.layer_norm(x, x.shape[-1:]), gain)
                logits = network.logits(normal) + network.prejudice[n]
                codes.append(SAMPLING.draw(logits.float(), draws[:, n]))
                x = network.embed(codes[-1])
        drawn = torch.stack(codes, 1).unflatten(1, network.grid)
        self.pictures = torch.cat([self.pictures, drawn[:, None]], 1)
        self.filled += network.size
        self.time += 1
        return drawn


@torch.no_grad()
def same_codes(network: RasterNetwork) -> bool:
    """Do the ways draw the same codes wherever they are to be the same?

    Ours and the recomputed one from the first frame on and beyond the window's end, over twice the window; the
    flushed one until its first flush.
    """
    memory = network.memory
    script = Script.random(network, 1, 1, 2 * memory + 1)
    cached, recomputed, flushed = Cached(network, script), Recomputed(network, script), Flushed(network, script)
    for time in range(1, script.length):
        codes = cached.frame()
        if not torch.equal(codes, recomputed.frame()) or (time <= memory and not torch.equal(codes, flushed.frame())):
            return False
    return True
