"""Frames per second of the tokenizers: encoding, decoding, a training step; compared with strided convolutions.

Shapes: N frames, H W pixels, h w code grid, d numbers per code.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.bench.timing import Job, median_ratio, rate_figures, time_jobs
from worldmodel.tokenizer import Codebook, Tokenizer, TokenizerConfig, make_tokenizer

CLIP_LENGTH = 8
TOKENIZERS: dict[str, TokenizerConfig] = {
    "frame, stride 8": TokenizerConfig(),
    "frame, stride 16": TokenizerConfig(space_stride=16, num_codes=1024),
    "clip, stride 2 x 8": TokenizerConfig(
        time="clip", space_stride=8, time_stride=2, clip_length=CLIP_LENGTH, width=32, residual_width=32
    ),
    "causal, stride 8": TokenizerConfig(time="causal", num_layers=1, time_window=4, width=32, residual_width=32),
}
BASELINE = "baseline, stride 8"


class BaselineTokenizer(nn.Module):
    """The usual VQ-VAE of single frames: strided convolutions over pixels, residual blocks, the same in reverse.

    Its channels at each resolution, its codes and its codebook are those of `TokenizerConfig`'s defaults. Encoder
    and decoder take and return float (N, 3, H, W).
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        narrow, wide, d = config.width, config.code_width, config.code_dim
        self.encoder = nn.Sequential(
            *(nn.Conv2d(3, narrow, 4, 2, 1), nn.ReLU()),
            *(nn.Conv2d(narrow, narrow, 4, 2, 1), nn.ReLU()),
            nn.Conv2d(narrow, wide, 4, 2, 1),
            *(_ResidualBlock(wide), _ResidualBlock(wide), nn.ReLU(), nn.Conv2d(wide, d, 1)),
        )
        self.decoder = nn.Sequential(
            *(nn.Conv2d(d, wide, 3, padding=1), _ResidualBlock(wide), _ResidualBlock(wide), nn.ReLU()),
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
        quantized = self.codebook(latents.movedim(1, -1).flatten(0, -2))
        h, w = latents.shape[2:]
        vectors = quantized.vectors.unflatten(0, (len(frames), h, w)).movedim(-1, 1)
        return F.mse_loss(self.decoder(vectors.contiguous()), pixels) + 0.25 * quantized.commitment

    def _pixels(self, frames: Tensor) -> Tensor:
        return (frames.float() / 255 - 0.5).movedim(-1, 1).contiguous()


class _ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)), *(nn.ReLU(), nn.Conv2d(width, width, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


STAGES = ("encode", "decode", "train")


def bench_tokenizer(size: int, frames: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Measure all tokenizers on the same frames in interleaved rounds, with torch's own number of threads.

    Args:
        size: H and W, a multiple of 16.
        frames: N of each call, a multiple of 8.
        seconds: duration of each measurement.
        rounds: repetitions.

    Returns:
        "rows": for each tokenizer the codes per frame, the number of parameters, and for "encode", "decode" and
        "train" the median frames/s, its interval, and the median over rounds of its ratio to the baseline.
        "load_before": the machine's load average in the minute before; above 0, other processes were running.
    """
    load = os.getloadavg()[0]
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (frames, size, size, 3), dtype=torch.uint8)
    functions, rows = {}, []
    functions[BASELINE], facts = _baseline_functions(pixels)
    rows.append({"tokenizer": BASELINE, **facts})
    for name, config in TOKENIZERS.items():
        tokenizer = make_tokenizer(config, (size, size, 3))
        functions[name] = _functions(tokenizer, pixels.view(-1, CLIP_LENGTH, size, size, 3))
        codes = tokenizer.grid[0] * tokenizer.grid[1] // tokenizer.time_stride
        rows.append({"tokenizer": name, "codes per frame": codes, "parameters": _num_parameters(tokenizer)})
    jobs = {(name, stage): Job(functions[name][stage], seconds) for stage in STAGES for name in functions}
    measured = time_jobs(jobs, rounds)
    for row in rows:
        for stage in STAGES:
            found = measured[str(row["tokenizer"]), stage]
            row |= rate_figures(f"{stage} frames/s", found, frames)
            row[f"{stage} x baseline"] = median_ratio(found, measured[BASELINE, stage])
    return {
        "rows": rows,
        "size": size,
        "frames": frames,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "load_before": load,
    }


def _baseline_functions(pixels: Tensor) -> tuple[dict[str, Callable[[], object]], dict[str, Any]]:
    """The functions to time of the baseline, for pixels (N, H, W, 3) uint8, and its sizes."""
    model = BaselineTokenizer(TokenizerConfig())
    h, w = pixels.shape[1] // 8, pixels.shape[2] // 8
    codes = model.encode(pixels).view(len(pixels), h, w)
    functions: dict[str, Callable[[], object]] = {
        "encode": lambda: model.encode(pixels),
        "decode": lambda: model.decode(codes),
        "train": _training_step(model, lambda: model.loss(pixels)),
    }
    return functions, {"codes per frame": h * w, "parameters": _num_parameters(model)}


def _functions(tokenizer: Tokenizer, clips: Tensor) -> dict[str, Callable[[], object]]:
    """The functions to time of a tokenizer, for clips (B, CLIP_LENGTH, H, W, 3) uint8."""
    valid = torch.ones(clips.shape[:2], dtype=torch.bool)
    codes = tokenizer.encode(clips)
    return {
        "encode": lambda: tokenizer.encode(clips),
        "decode": lambda: tokenizer.decode(codes),
        "train": _training_step(tokenizer, lambda: tokenizer.loss(clips, valid)["loss"]),
    }


def _training_step(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], object]:
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step


def _num_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
