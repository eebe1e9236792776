"""The tokenizers: frames to codes and back (paper section 2.1), one frame or one clip at a time.

Shapes: B batch, T time, L frames of a clip, H W pixels, h w code grid, d numbers a code, D channels; N frames or
clips encoded together. Inside, pixels are float (N, 3, H, W) or (N, 3, L, H, W), standardised.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.common.errors import UserError
from worldmodel.tokenizer.tokenizer import ENCODE_CHUNK, Tokenizer
from worldmodel.tokenizer.tokenizer_config import TokenizerConfig
from worldmodel.tokenizer.tokenizer_layers import AttentionResidual, ChannelNorm, Positions, ResidualBlock


class FrameTokenizer(Tokenizer):
    """A VQ-VAE without a time axis: each frame is h x w codes of its own.

    The first layer cuts the frame into patches of 4 x 4 pixels (PixelUnshuffle): cheaper on a CPU than
    strided convolutions over pixels, and it learns faster there.
    """

    def __init__(self, config: TokenizerConfig, frame_shape: tuple[int, int, int]) -> None:
        super().__init__(config, frame_shape)
        assert config.time == "frame"
        narrow, wide, d = config.width, config.code_width, config.code_dim
        down = {4: 0, 8: 1, 16: 2}[config.space_stride]

        encoder: list[nn.Module] = [nn.PixelUnshuffle(4), nn.Conv2d(48, narrow, 3, padding=1)]
        encoder += [ResidualBlock(narrow)]
        channels = narrow
        for _ in range(down):
            encoder += [nn.SiLU(), nn.Conv2d(channels, wide, 4, 2, 1), ResidualBlock(wide)]
            channels = wide
        encoder += [nn.SiLU(), nn.Conv2d(channels, d, 1)]
        self.encoder = nn.Sequential(*encoder)

        channels = wide if down else narrow
        decoder: list[nn.Module] = [nn.Conv2d(d, channels, 3, padding=1), ResidualBlock(channels)]
        for level in range(down, 0, -1):
            below = wide if level > 1 else narrow
            decoder += [
                nn.SiLU(),
                nn.Conv2d(channels, below * 4, 1),
                nn.PixelShuffle(2),
                ResidualBlock(below),
            ]
            channels = below
        decoder += [ResidualBlock(narrow), nn.SiLU(), nn.Conv2d(narrow, 48, 3, padding=1), nn.PixelShuffle(4)]
        self.decoder = nn.Sequential(*decoder)

    def _units(self, values: Tensor, stride: int) -> Tensor:
        return values.flatten(0, 1)

    def _chunk(self) -> int:
        return ENCODE_CHUNK

    def _learned(self, frames: Tensor, valid: Tensor) -> tuple[Tensor, None]:
        return frames[valid], None

    def _by_frame(self, pixels: Tensor) -> Tensor:
        return pixels


class ClipTokenizer(Tokenizer):
    """The paper's VQ-VAE: strided 3D convolutions and axial attention over whole clips.

    Not causal: every code may depend on every frame of its clip, and every frame on every code, so codes depend on
    where a clip begins, and such a world cannot be stepped. Clips have exactly `config.clip_length` frames; more
    frames are encoded as that many clips in a row.
    """

    def __init__(self, config: TokenizerConfig, frame_shape: tuple[int, int, int]) -> None:
        super().__init__(config, frame_shape)
        assert config.time == "clip"
        shape = (config.clip_length // config.time_stride, *self.places)
        self.positions = Positions(shape, config.width) if config.axial_attention else None
        self.encoder = ClipEncoder(config)
        self.decoder = ClipDecoder(config)

    def _checked(self, frames: Tensor) -> Tensor:
        length = self.config.clip_length
        if frames.ndim == 5 and (frames.shape[1] % length or not frames.shape[1]):
            raise UserError(
                f"frames: got {frames.shape[1]} frames a row, wanted a multiple of "
                f"the tokenizer's clip_length={length}."
            )
        return super()._checked(frames)

    def _checked_codes(self, codes: Tensor) -> Tensor:
        steps = self.config.clip_length // self.time_stride
        if codes.ndim == 4 and (codes.shape[1] % steps or not codes.shape[1]):
            raise UserError(
                f"codes: got {codes.shape[1]} steps a row, wanted a multiple of {steps}: the tokenizer's clips have "
                f"{self.config.clip_length} frames and a code spans {self.time_stride}."
            )
        return super()._checked_codes(codes)

    def _units(self, values: Tensor, stride: int) -> Tensor:
        return values.unflatten(1, (-1, self.config.clip_length // stride)).flatten(0, 1)

    def _chunk(self) -> int:
        return max(1, ENCODE_CHUNK // self.config.clip_length)

    def _learned(self, frames: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        frames, valid = self._units(frames, 1), self._units(valid, 1)
        seen = valid.any(1)  # a clip without a valid frame is left out
        return fill_invalid(frames[seen], valid[seen]), valid[seen].flatten()

    def _by_frame(self, pixels: Tensor) -> Tensor:
        return rearrange(pixels, "n c l h w -> (n l) c h w")

    def _latents(self, pixels: Tensor) -> Tensor:
        return self.encoder(pixels, self.positions() if self.positions is not None else None)

    def _output(self, latents: Tensor) -> Tensor:
        return self.decoder(latents, self.positions() if self.positions is not None else None)

    def _rare(self, pixels: Tensor) -> Tensor:
        change = F.pad(pixels.diff(dim=2).abs(), (0, 0, 0, 0, 1, 0))  # (N, 3, L, H, W), 0 in the first frame
        return super()._rare(pixels) | (change > self.rare_distance[:, None]).any(1, keepdim=True)


class ClipEncoder(nn.Module):
    """Strided convolutions, attention residual blocks, LN, ReLU, down to d: (N, 3, L, H, W) -> (N, d, T, h, w).

    Convolutions have a kernel of 3 (table 8) and halve the axes that are still to be halved, time among the first.

    Args:
        config: sizes.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        width = config.width
        inputs = [3, *[width] * (len(_strides(config)) - 1)]
        self.down = nn.ModuleList(
            nn.Conv3d(channels, width, 3, stride, padding=1)
            for channels, stride in zip(inputs, _strides(config), strict=True)
        )
        self.blocks = _blocks(config)
        self.norm = ChannelNorm(width)
        self.out = nn.Conv3d(width, config.code_dim, 1)

    def forward(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """Pixels, and positions (T, h, w, D) for the attention, to latents."""
        for i, layer in enumerate(self.down):
            x = layer(F.relu(x) if i else x)
        for block in self.blocks:
            x = block(x, positions)
        return self.out(F.relu(self.norm(x)))


class ClipDecoder(nn.Module):
    """The encoder in reverse, with transposed convolutions: (N, d, T, h, w) -> (N, 3, L, H, W).

    Their kernel is 4 (table 8); along an axis that is not doubled it is 3, which leaves its length as it is.

    Args:
        config: sizes.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        width = config.width
        strides = _strides(config)[::-1]
        outputs = [*[width] * (len(strides) - 1), 3]
        self.into = nn.Conv3d(config.code_dim, width, 1)
        self.blocks = _blocks(config)
        self.norm = ChannelNorm(width)
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(width, channels, (stride[0] + 2, stride[1] + 2, stride[2] + 2), stride, padding=1)
            for channels, stride in zip(outputs, strides, strict=True)
        )

    def forward(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """Latents, and positions (T, h, w, D) for the attention, to pixels."""
        x = self.into(x)
        for block in self.blocks:
            x = block(x, positions)
        x = self.norm(x)
        for layer in self.up:
            x = layer(F.relu(x))
        return x


def _strides(config: TokenizerConfig) -> list[tuple[int, int, int]]:
    """Strides (time, rows, columns) of the encoder's convolutions, at least one: 4 and 2 give (2,2,2), (2,1,1)."""
    halvings = [stride.bit_length() - 1 for stride in (config.time_stride, config.space_stride, config.space_stride)]
    levels = range(max(1, *halvings))
    return [(1 + (i < halvings[0]), 1 + (i < halvings[1]), 1 + (i < halvings[2])) for i in levels]


def _blocks(config: TokenizerConfig) -> nn.ModuleList:
    heads = config.num_heads if config.axial_attention else 0
    return nn.ModuleList(
        AttentionResidual(config.width, config.residual_width, heads) for _ in range(config.num_layers)
    )


def fill_invalid(frames: Tensor, valid: Tensor) -> Tensor:
    """Each invalid frame replaced by the last valid one before it, or by the first valid one of the clip.

    Args:
        frames: (N, L, ...).
        valid: (N, L) bool, at least one True in each row.
    """
    index = torch.arange(valid.shape[1], device=valid.device)
    last = torch.where(valid, index, -1).cummax(1).values  # (N, L), -1 before the first valid frame
    source = torch.where(last < 0, valid.int().argmax(1, keepdim=True), last)
    return frames[torch.arange(len(frames), device=frames.device)[:, None], source]


def make_tokenizer(config: TokenizerConfig, frame_shape: tuple[int, int, int]) -> Tokenizer:
    """The tokenizer that `config.time` names.

    Args:
        config: sizes.
        frame_shape: (H, W, 3).
    """
    return {"frame": FrameTokenizer, "clip": ClipTokenizer}[config.time](config, frame_shape)
