"""Tokenizers of a few channels, frames of noise, and a tokenizer after one batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from worldmodel.tokenizer import Tokenizer, TokenizerConfig, make_tokenizer

SMALL: dict[str, Any] = {"width": 8, "code_width": 8, "residual_width": 6, "num_codes": 16, "code_dim": 4}


def frame_config(**options: Any) -> TokenizerConfig:
    return TokenizerConfig(**{**SMALL, "space_stride": 4, **options})


def clip_config(**options: Any) -> TokenizerConfig:
    defaults = {"time": "clip", "space_stride": 4, "time_stride": 2, "clip_length": 4, "num_layers": 1}
    return TokenizerConfig(**{**SMALL, **defaults, **options})


def causal_config(**options: Any) -> TokenizerConfig:
    defaults = {"time": "causal", "space_stride": 4, "time_stride": 1, "num_layers": 1, "time_window": 3}
    return TokenizerConfig(**{**SMALL, **defaults, **options})


def random_frames(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=generator)


def make_fitted(config: TokenizerConfig, frames: Tensor, noise: float = 0.05) -> Tokenizer:
    """A tokenizer after one batch: normaliser and codebook are fitted, no layer is zero."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(config, tuple(frames.shape[2:]))  # type: ignore[arg-type]
    for parameter in tokenizer.parameters():
        parameter.data += noise * torch.randn_like(parameter)
    tokenizer.fit_normaliser([frames.flatten(0, 1)])
    tokenizer.train().loss(frames, torch.ones(frames.shape[:2], dtype=torch.bool))
    return tokenizer
