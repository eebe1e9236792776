"""Frames a second of the tokenizers: encoding, decoding, a training step; beside plain convolutions a frame.

Shapes: N frames, H W pixels, h w code grid, d numbers a code.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.tokenizer import Codebook, Tokenizer, TokenizerConfig, make_tokenizer

CLIP_LENGTH = 8
WAYS: dict[str, TokenizerConfig] = {
    "frame, stride 8": TokenizerConfig(),
    "frame, stride 16": TokenizerConfig(space_stride=16, num_codes=1024),
    "clip, stride 2 x 8": TokenizerConfig(
        time="clip", space_stride=8, time_stride=2, clip_length=CLIP_LENGTH, width=32, residual_width=32
    ),
}
PLAIN = "plain, stride 8"  # what the others are compared with


class BaselineTokenizer(nn.Module):
    """The usual VQ-VAE of a frame: strided convolutions over pixels, residual blocks, the same in reverse.

    Its channels at each resolution, its codes and its codebook are those of `TokenizerConfig`'s defaults; pixels
    in, pixels out, float (N, 3, H, W).
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        narrow, wide, d = config.width, config.code_width, config.code_dim
        self.encoder = nn.Sequential(
            *(nn.Conv2d(3, narrow, 4, 2, 1), nn.ReLU()),
            *(nn.Conv2d(narrow, narrow, 4, 2, 1), nn.ReLU()),
            nn.Conv2d(narrow, wide, 4, 2, 1),
            *(_PlainBlock(wide), _PlainBlock(wide), nn.ReLU(), nn.Conv2d(wide, d, 1)),
        )
        self.decoder = nn.Sequential(
            *(nn.Conv2d(d, wide, 3, padding=1), _PlainBlock(wide), _PlainBlock(wide), nn.ReLU()),
            *(nn.ConvTranspose2d(wide, narrow, 4, 2, 1), nn.ReLU()),
            *(nn.ConvTranspose2d(narrow, narrow, 4, 2, 1), nn.ReLU()),
            nn.ConvTranspose2d(narrow, 3, 4, 2, 1),
        )
        self.codebook = Codebook(config.num_codes, d)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 -> (N*h*w,) int64."""
        return self.codebook.encode(self.encoder(self._pixels(frames)).movedim(1, -1).flatten(0, -2))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """(N, h, w) int64 -> (N, H, W, 3) uint8."""
        pixels = self.decoder(self.codebook.decode(codes).movedim(-1, 1).contiguous())
        return ((pixels.movedim(1, -1) + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)

    def loss(self, frames: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 -> ()."""
        pixels = self._pixels(frames)
        latents = self.encoder(pixels)
        chosen = self.codebook(latents.movedim(1, -1).flatten(0, -2))
        h, w = latents.shape[2:]
        vectors = chosen.vectors.unflatten(0, (len(frames), h, w)).movedim(-1, 1)
        return F.mse_loss(self.decoder(vectors.contiguous()), pixels) + 0.25 * chosen.commitment

    def _pixels(self, frames: Tensor) -> Tensor:
        return (frames.float() / 255 - 0.5).movedim(-1, 1).contiguous()


class _PlainBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)), *(nn.ReLU(), nn.Conv2d(width, width, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def bench_tokenizer(size: int, frames: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Measure all ways in turn on the same frames, with torch's own number of threads.

    Args:
        size: H and W, a multiple of 16.
        frames: N of each call, a multiple of 8.
        seconds: how long each is timed, each time.
        rounds: how often all take turns, so that a slow moment of the machine hits all of them.

    Returns:
        {"rows": [...]}: per way the codes a frame, the number of parameters, and for "encode", "decode" and "train"
        the median frames/s and the median over rounds of its ratio to the plain convolutions. "load_before" is the
        machine's load average of the minute before: above 0, others were at work.
    """
    load = os.getloadavg()[0]
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (frames, size, size, 3), dtype=torch.uint8)
    jobs: dict[str, dict[str, Callable[[], object]]] = {}
    facts: dict[str, dict[str, Any]] = {}
    plain = BaselineTokenizer(TokenizerConfig())
    grid = (size // 8, size // 8)
    codes = plain.encode(pixels).view(frames, *grid)
    jobs[PLAIN] = {
        "encode": lambda: plain.encode(pixels),
        "decode": lambda: plain.decode(codes),
        "train": _step(plain, lambda: plain.loss(pixels)),
    }
    facts[PLAIN] = {"codes a frame": grid[0] * grid[1], "parameters": _size(plain)}
    for name, config in WAYS.items():
        tokenizer = make_tokenizer(config, (size, size, 3))
        jobs[name] = _jobs(tokenizer, pixels.view(-1, CLIP_LENGTH, size, size, 3))
        facts[name] = {
            "codes a frame": tokenizer.grid[0] * tokenizer.grid[1] // tokenizer.time_stride,
            "parameters": _size(tokenizer),
        }
    rates: dict[tuple[str, str], list[float]] = {}
    for work in jobs.values():
        for job in work.values():
            job()  # nothing is timed cold
    for _ in range(rounds):
        for kind in ("encode", "decode", "train"):
            for name, work in jobs.items():
                rates.setdefault((name, kind), []).append(frames * _per_second(work[kind], seconds))
    rows = []
    for name in jobs:
        row: dict[str, Any] = {"tokenizer": name, **facts[name]}
        for kind in ("encode", "decode", "train"):
            ratios = [a / b for a, b in zip(rates[name, kind], rates[PLAIN, kind], strict=True)]
            row |= {f"{kind} frames/s": median(rates[name, kind]), f"{kind} x plain": median(ratios)}
        rows.append(row)
    return {
        "rows": rows,
        "size": size,
        "frames": frames,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "load_before": load,
    }


def _jobs(tokenizer: Tokenizer, clips: Tensor) -> dict[str, Callable[[], object]]:
    valid = torch.ones(clips.shape[:2], dtype=torch.bool)
    codes = tokenizer.encode(clips)
    return {
        "encode": lambda: tokenizer.encode(clips),
        "decode": lambda: tokenizer.decode(codes),
        "train": _step(tokenizer, lambda: tokenizer.loss(clips, valid)["loss"]),
    }


def _step(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], object]:
    optimiser = torch.optim.AdamW(model.parameters())

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss().backward()
        optimiser.step()

    return step


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _per_second(job: Callable[[], object], seconds: float) -> float:
    begun, calls = time.perf_counter(), 0
    while (now := time.perf_counter()) - begun < seconds:
        job()
        calls += 1
    return calls / (now - begun)
