"""The tokenizer: frames to codes and back (paper section 2.1), one frame at a time.

Shapes: B batch, T time, N = B*T frames, H W pixels, h w code grid, d numbers a code, V codes in the book.
Frames are uint8 (..., H, W, 3); inside they are float (N, 3, H, W), standardised.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.errors import UserError
from worldmodel.tokenizer.codebook import Codebook, perplexity

ENCODE_CHUNK = 256  # frames encoded or decoded at once, to bound memory


@dataclass(frozen=True)
class TokenizerConfig:
    """The size of a tokenizer.

    Attributes:
        time: "frame": no operation crosses frames, which is what a dream needs.
        space_stride: pixels a code spans in rows and in columns; 4, 8 or 16.
        width: channels at a quarter of the frame's resolution.
        code_width: channels on the code grid.
        num_codes: V, codes in the book.
        code_dim: d, numbers in an embedding.
        codebook_decay: share of the old average the codebook keeps at each step (paper: 0.99).
        restart_below: a code used less often a step than this restarts.
        commitment: beta, weight of the commitment loss (paper table 8: 0.25).
    """

    time: Literal["frame"] = "frame"
    space_stride: int = 8
    width: int = 32
    code_width: int = 96
    num_codes: int = 512
    code_dim: int = 16
    codebook_decay: float = 0.99
    restart_below: float = 0.5
    commitment: float = 0.25


class ResidualBlock(nn.Module):
    """x + conv1(silu(conv3(silu(x)))), the last convolution starting at zero. No normalisation layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(width, width, 3, padding=1)
        self.narrow = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.narrow.weight)
        assert self.narrow.bias is not None
        nn.init.zeros_(self.narrow.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, rows, columns) -> the same shape."""
        return x + self.narrow(F.silu(self.wide(F.silu(x))))


class FrameTokenizer(nn.Module):
    """A VQ-VAE without a time axis: each frame is h x w codes of its own.

    The first layer cuts the frame into patches of 4 x 4 pixels (PixelUnshuffle): cheaper on a CPU than
    strided convolutions over pixels, and it learns faster there.

    Args:
        config: sizes.
        frame_shape: (H, W, 3); H and W must be multiples of the stride.

    Raises:
        UserError: the frame cannot be cut into whole patches.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: TokenizerConfig, frame_shape: tuple[int, int, int]) -> None:
        super().__init__()
        height, width, _ = frame_shape
        stride = config.space_stride
        if stride not in (4, 8, 16):
            raise UserError(f"tokenizer space_stride={stride}: wanted 4, 8 or 16 pixels a code.")
        if height % stride or width % stride:
            raise UserError(
                f"frames of {height} x {width} pixels cannot be cut into patches of {stride} x {stride}: "
                "wanted both sides to be multiples of it. Change the frame's size or crop, or the stride."
            )
        self.config = config
        self.frame_shape = (height, width, 3)
        self.grid = (height // stride, width // stride)
        self.register_buffer("pixel_mean", torch.zeros(3))
        self.register_buffer("pixel_std", torch.tensor(0.25))
        narrow, wide, d = config.width, config.code_width, config.code_dim
        down = {4: 0, 8: 1, 16: 2}[stride]

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
        self.codebook = Codebook(config.num_codes, d, config.codebook_decay, config.restart_below)

    @torch.no_grad()
    def measure(self, frames: Iterable[Tensor]) -> None:
        """Measure the normaliser: the mean of each colour and one standard deviation over all pixels.

        The reconstruction loss is then the paper's mean squared error over the variance of the data.

        Args:
            frames: chunks of the training split's real frames, each (N, H, W, 3) uint8.
        """
        count, total, squares = 0, torch.zeros(3, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for chunk in frames:
            pixels = chunk.reshape(-1, 3).to(torch.float64) / 255 - 0.5
            count += len(pixels)
            total += pixels.sum(0)
            squares += pixels.square().sum()
        if not count:
            raise UserError("the training split holds no valid frame, so there is nothing to learn from.")
        mean = total / count
        variance = squares / (3 * count) - mean.square().mean()
        self.pixel_mean.copy_(mean)
        self.pixel_std.copy_(variance.clamp_min(1e-4).sqrt())

    def encode(self, frames: Tensor) -> Tensor:
        """Codes of frames; no gradient.

        Args:
            frames: (B, T, H, W, 3) uint8.

        Returns:
            (B, T, h, w) int64 in [0, V).
        """
        flat = rearrange(self._checked(frames), "b t h w c -> (b t) h w c")
        with torch.no_grad():
            codes = [self._encode(chunk)[1] for chunk in flat.split(ENCODE_CHUNK)]
        return torch.cat(codes).reshape(*frames.shape[:2], *self.grid)

    def decode(self, codes: Tensor) -> Tensor:
        """Frames of codes; no gradient.

        Args:
            codes: (B, T, h, w) int64 in [0, V).

        Returns:
            (B, T, H, W, 3) uint8.
        """
        flat = rearrange(codes, "b t h w -> (b t) h w")
        with torch.no_grad():
            frames = [self._to_frames(self._decode(chunk)) for chunk in flat.split(ENCODE_CHUNK)]
        return torch.cat(frames).reshape(*codes.shape[:2], *self.frame_shape)

    def loss(self, frames: Tensor, valid: Tensor) -> dict[str, Tensor]:
        """Loss of a batch; in training mode the codebook learns from it too.

        Args:
            frames: (B, T, H, W, 3) uint8.
            valid: (B, T) bool; frames marked False are seen by no one. At least one must be True.

        Returns:
            Scalars: `loss` = `reconstruction` (mean squared error over the data's variance) + beta x
            `commitment`; `psnr` in dB, the mean over frames; `perplexity`, codes in effective use.
        """
        pixels = self._standardise(self._checked(frames)[valid])  # (N, 3, H, W)
        quantised, codes, commitment = self.codebook(self._vectors(pixels))
        output = self.decoder(self._grid(quantised, len(pixels)))
        errors = (output - pixels).square().mean((1, 2, 3))  # (N,)
        reconstruction = errors.mean()
        mse = (errors.detach() * self.pixel_std.square()).clamp_min(1e-10)  # in units of the full range
        return {
            "loss": reconstruction + self.config.commitment * commitment,
            "reconstruction": reconstruction.detach(),
            "commitment": commitment.detach(),
            "psnr": (-10 * mse.log10()).mean(),
            "perplexity": perplexity(codes, self.config.num_codes),
        }

    def _checked(self, frames: Tensor) -> Tensor:
        if frames.dtype != torch.uint8 or frames.ndim != 5 or tuple(frames.shape[2:]) != self.frame_shape:
            raise UserError(
                f"frames: got {tuple(frames.shape)} {frames.dtype}, wanted (B, T, *{self.frame_shape}) uint8."
            )
        return frames

    def _standardise(self, frames: Tensor) -> Tensor:
        pixels = frames.float() / 255 - 0.5
        return rearrange((pixels - self.pixel_mean) / self.pixel_std, "n h w c -> n c h w").contiguous()

    def _to_frames(self, output: Tensor) -> Tensor:
        pixels = rearrange(output, "n c h w -> n h w c") * self.pixel_std + self.pixel_mean
        return ((pixels + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)

    def _vectors(self, pixels: Tensor) -> Tensor:
        return rearrange(self.encoder(pixels), "n d h w -> (n h w) d").float()  # (N*h*w, d)

    def _grid(self, vectors: Tensor, num_frames: int) -> Tensor:
        h, w = self.grid
        return rearrange(vectors, "(n h w) d -> n d h w", n=num_frames, h=h, w=w).contiguous()

    def _encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        vectors = self._vectors(self._standardise(frames))
        return vectors, self.codebook.encode(vectors)

    def _decode(self, codes: Tensor) -> Tensor:
        return self.decoder(rearrange(self.codebook.decode(codes), "n h w d -> n d h w").contiguous())
