"""The two VQ-VAEs: one encodes frame by frame, one (the paper's, section 2.1) encodes whole clips.

Shapes: B batch, T time, L frames of a clip, H W pixels, h w latent grid, d numbers in a code's embedding, D channels,
N frames or clips encoded together. Inside, pixels are float (N, 3, H, W) or (N, 3, L, H, W), standardised.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.common.errors import UserError
from worldmodel.common.torch_state import default_torch_modes
from worldmodel.tokenizer.border import BorderDecoder
from worldmodel.tokenizer.causal_tokenizer import CausalTokenizer
from worldmodel.tokenizer.tokenizer import ENCODE_CHUNK, Tokenizer
from worldmodel.tokenizer.tokenizer_config import TokenizerConfig
from worldmodel.tokenizer.tokenizer_layers import AttentionResidualBlock, ChannelNorm, PositionEmbedding, ResidualBlock
from worldmodel.tokenizer.volume_tokenizer import VolumeTokenizer, conv_strides


class FrameTokenizer(Tokenizer):
    """A VQ-VAE without a time axis: each frame is encoded alone, as h x w codes.

    The first layer cuts the frame into patches of 4 x 4 pixels (PixelUnshuffle). On a CPU that is cheaper than
    strided convolutions over pixels, and it learns faster.
    """

    @default_torch_modes()
    def __init__(self, config: TokenizerConfig, frame_shape: tuple[int, int, int]) -> None:
        super().__init__(config, frame_shape)
        assert config.time == "frame"
        num_halvings = {4: 0, 8: 1, 16: 2}[config.space_stride]  # after the patches of 4 x 4 pixels
        self.encoder = _frame_encoder(config.width, config.code_width, config.code_dim, num_halvings)
        self.decoder = _frame_decoder(config.width, config.code_width, config.code_dim, num_halvings)
        if self.encoded_shape != self.frame_shape:
            assert config.encoded is not None
            size, width = self.frame_shape[:2], max(1, config.code_width // 2)
            self.border = BorderDecoder(config.code_dim, size, config.encoded, config.space_stride, width)

    def _to_units(self, values: Tensor, stride: int) -> Tensor:
        return values.flatten(0, 1)

    def _units_per_chunk(self) -> int:
        return ENCODE_CHUNK

    def _training_units(self, frames: Tensor, valid: Tensor) -> tuple[Tensor, None]:
        return frames[valid], None

    def _flatten_time(self, pixels: Tensor) -> Tensor:
        return pixels


def _frame_encoder(width: int, code_width: int, code_dim: int, num_halvings: int) -> nn.Sequential:
    """(N, 3, H, W) -> (N, code_dim, h, w)."""
    layers: list[nn.Module] = [nn.PixelUnshuffle(4), nn.Conv2d(48, width, 3, padding=1), ResidualBlock(width)]
    channels = width
    for _ in range(num_halvings):
        layers += [nn.SiLU(), nn.Conv2d(channels, code_width, 4, 2, 1), ResidualBlock(code_width)]
        channels = code_width
    return nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(channels, code_dim, 1))


def _frame_decoder(width: int, code_width: int, code_dim: int, num_halvings: int) -> nn.Sequential:
    """(N, code_dim, h, w) -> (N, 3, H, W)."""
    channels = code_width if num_halvings else width
    layers: list[nn.Module] = [nn.Conv2d(code_dim, channels, 3, padding=1), ResidualBlock(channels)]
    for level in range(num_halvings, 0, -1):
        next_channels = code_width if level > 1 else width
        layers += [nn.SiLU(), nn.Conv2d(channels, next_channels * 4, 1), nn.PixelShuffle(2)]
        layers += [ResidualBlock(next_channels)]
        channels = next_channels
    layers += [ResidualBlock(width), nn.SiLU(), nn.Conv2d(width, 48, 3, padding=1), nn.PixelShuffle(4)]
    return nn.Sequential(*layers)


class ClipTokenizer(VolumeTokenizer):
    """The paper's VQ-VAE: strided 3D convolutions and axial attention over whole clips.

    It is not causal: every code may depend on every frame of its clip, and every frame on every code. Codes depend on
    where a clip begins, so a world with this tokenizer cannot be stepped. A clip has exactly `config.clip_length`
    frames; a longer sequence is encoded as several clips in a row.
    """

    @default_torch_modes()
    def __init__(self, config: TokenizerConfig, frame_shape: tuple[int, int, int]) -> None:
        super().__init__(config, frame_shape)
        assert config.time == "clip"
        shape = (config.clip_length // config.time_stride, *self.latent_grid)
        self.position_embed = PositionEmbedding(shape, config.width) if config.axial_attention else None
        self.encoder = ClipEncoder(config)
        self.decoder = ClipDecoder(config)

    def _check_frames(self, frames: Tensor) -> None:
        length = self.config.clip_length
        if frames.ndim == 5 and (frames.shape[1] % length or not frames.shape[1]):
            raise UserError(
                f"frames: got {frames.shape[1]} frames per row, wanted a multiple of "
                f"the tokenizer's clip_length={length}."
            )
        super()._check_frames(frames)

    def _check_codes(self, codes: Tensor) -> None:
        steps = self.config.clip_length // self.time_stride
        if codes.ndim == 4 and (codes.shape[1] % steps or not codes.shape[1]):
            raise UserError(
                f"codes: got {codes.shape[1]} steps per row, wanted a multiple of {steps}: the tokenizer's clips have "
                f"{self.config.clip_length} frames and a code spans {self.time_stride}."
            )
        super()._check_codes(codes)

    def _to_units(self, values: Tensor, stride: int) -> Tensor:
        return values.unflatten(1, (-1, self.config.clip_length // stride)).flatten(0, 1)

    def _units_per_chunk(self) -> int:
        return max(1, ENCODE_CHUNK // self.config.clip_length)

    def _encode_pixels(self, pixels: Tensor) -> Tensor:
        return self.encoder(pixels, self.position_embed() if self.position_embed is not None else None)

    def _decode_latents(self, latents: Tensor) -> Tensor:
        return self.decoder(latents, self.position_embed() if self.position_embed is not None else None)


class ClipEncoder(nn.Module):
    """Strided convolutions, attention residual blocks, LN, ReLU, a 1x1x1 convolution to d channels.

    The strided convolutions have a kernel of 3 (table 8). Each halves every axis that its stride still requires.

    Args:
        config: sizes.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        width = config.width
        inputs = [3, *[width] * (len(conv_strides(config)) - 1)]
        self.down_convs = nn.ModuleList(
            nn.Conv3d(channels, width, 3, stride, padding=1)
            for channels, stride in zip(inputs, conv_strides(config), strict=True)
        )
        self.blocks = _residual_blocks(config)
        self.norm = ChannelNorm(width)
        self.output_conv = nn.Conv3d(width, config.code_dim, 1)

    def forward(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """Pixels (N, 3, L, H, W) and position embeddings (T, h, w, D) to latents (N, d, T, h, w)."""
        for i, layer in enumerate(self.down_convs):
            x = layer(F.relu(x) if i else x)
        for block in self.blocks:
            x = block(x, positions)
        return self.output_conv(F.relu(self.norm(x)))


class ClipDecoder(nn.Module):
    """The encoder in reverse, with transposed convolutions.

    Their kernel is 4 (table 8) along an axis that is doubled, else 3, which keeps the axis' length.

    Args:
        config: sizes.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        width = config.width
        strides = conv_strides(config)[::-1]
        outputs = [*[width] * (len(strides) - 1), 3]
        self.input_conv = nn.Conv3d(config.code_dim, width, 1)
        self.blocks = _residual_blocks(config)
        self.norm = ChannelNorm(width)
        self.up_convs = nn.ModuleList(
            nn.ConvTranspose3d(width, channels, (stride[0] + 2, stride[1] + 2, stride[2] + 2), stride, padding=1)
            for channels, stride in zip(outputs, strides, strict=True)
        )

    def forward(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """Latents (N, d, T, h, w) and position embeddings (T, h, w, D) to pixels (N, 3, L, H, W)."""
        x = self.input_conv(x)
        for block in self.blocks:
            x = block(x, positions)
        x = self.norm(x)
        for layer in self.up_convs:
            x = layer(F.relu(x))
        return x


def _residual_blocks(config: TokenizerConfig) -> nn.ModuleList:
    heads = config.num_heads if config.axial_attention else 0
    return nn.ModuleList(
        AttentionResidualBlock(config.width, config.residual_width, heads) for _ in range(config.num_layers)
    )


def make_tokenizer(config: TokenizerConfig, frame_shape: tuple[int, int, int]) -> Tokenizer:
    """Build the tokenizer that `config.time` names, untrained.

    Args:
        config: sizes.
        frame_shape: (H, W, 3).
    """
    kinds: dict[str, Callable[[TokenizerConfig, tuple[int, int, int]], Tokenizer]] = {
        "frame": FrameTokenizer,
        "clip": ClipTokenizer,
        "causal": CausalTokenizer,
    }
    return kinds[config.time](config, frame_shape)
