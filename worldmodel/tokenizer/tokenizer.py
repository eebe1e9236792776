"""What every tokenizer does alike: normalise, quantise, measure its loss, encode and decode in chunks.

Shapes: B batch, T time, H W pixels, h w code grid, C codebooks, d numbers a code, V codes in a book. A unit is
what is encoded together, one frame or one clip; N units, F frames of all units. Frames are uint8
(..., H, W, 3); inside they are float, standardised, channels first: (N, 3, H, W) or (N, 3, L, H, W).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from worldmodel.common.errors import UserError
from worldmodel.common.processes import process_weight
from worldmodel.tokenizer.codebook import Codebook
from worldmodel.tokenizer.tokenizer_config import TokenizerConfig

ENCODE_CHUNK = 256  # frames encoded or decoded at once, to bound memory
RARE_STDS = 2.0  # a pixel is rare beyond so many of its place's standard deviations from the mean picture,
RARE_FLOOR = 0.04  # and beyond this share of the full range, lest a still place's noise be rare


class Tokenizer(nn.Module, ABC):
    """Frames to codes and back; `encoder` and `decoder` are the subclass's.

    Args:
        config: sizes.
        frame_shape: (H, W, 3); H and W must be multiples of the stride.

    Attributes:
        grid: (h, w*C), the codes of one step of time, those of one place beside each other.
        num_codes: V.
        time_stride: frames a step of codes spans.

    Raises:
        UserError: the frame cannot be cut into whole patches.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    mean_picture: Tensor
    rare_distance: Tensor
    encoder: nn.Module
    decoder: nn.Module
    codebook: Codebook

    def __init__(self, config: TokenizerConfig, frame_shape: tuple[int, int, int]) -> None:
        super().__init__()
        height, width, _ = frame_shape
        stride = config.space_stride
        if height % stride or width % stride:
            raise UserError(
                f"frames of {height} x {width} pixels cannot be cut into patches of {stride} x {stride}: "
                "wanted both sides to be multiples of it. Change the frame's size or crop, or the stride."
            )
        self.config = config
        self.frame_shape = (height, width, 3)
        self.places = (height // stride, width // stride)
        self.grid = (height // stride, width // stride * config.num_codebooks)
        self.num_codes = config.num_codes
        self.time_stride = config.time_stride
        self.register_buffer("pixel_mean", torch.zeros(3))
        self.register_buffer("pixel_std", torch.tensor(0.25))
        if config.rare_weight != 1:  # standardised, as the pixels are
            self.register_buffer("mean_picture", torch.zeros(3, height, width))
            self.register_buffer("rare_distance", torch.ones(3, height, width))
        self.codebook = Codebook(
            config.num_codes, config.code_dim, config.codebook_decay, config.restart_below, config.num_codebooks
        )

    @torch.no_grad()
    def measure(self, frames: Iterable[Tensor]) -> None:
        """Measure the normaliser: the mean of each colour and one standard deviation over all pixels.

        The reconstruction loss is then the paper's mean squared error over the variance of the data. With a
        rare weight, also the mean picture and how far from it each place is rare.

        Args:
            frames: chunks of the training split's real frames, each (N, H, W, 3) uint8.
        """
        count = 0
        total = torch.zeros(self.frame_shape, dtype=torch.float64)
        squares = torch.zeros_like(total)
        for chunk in frames:
            pixels = chunk.reshape(-1, *self.frame_shape).cpu().to(torch.float64) / 255 - 0.5
            count += len(pixels)
            total += pixels.sum(0)
            squares += pixels.square().sum(0)
        if not count:
            raise UserError("the training split holds no valid frame, so there is nothing to learn from.")
        picture, power = total / count, squares / count  # (H, W, 3)
        mean = picture.mean((0, 1))
        std = (power.mean() - mean.square().mean()).clamp_min(1e-4).sqrt()
        self.pixel_mean.copy_(mean)
        self.pixel_std.copy_(std)
        if self.config.rare_weight != 1:
            distance = (RARE_STDS * (power - picture.square()).clamp_min(0).sqrt()).clamp_min(RARE_FLOOR)
            self.mean_picture.copy_(((picture - mean) / std).movedim(-1, 0))
            self.rare_distance.copy_((distance / std).movedim(-1, 0))

    def encode(self, frames: Tensor) -> Tensor:
        """Codes of frames; no gradient.

        Args:
            frames: (B, T, H, W, 3) uint8.

        Returns:
            (B, T / time_stride, h, w*C) int64 in [0, V).
        """
        units = self._units(self._checked(frames), 1)
        with torch.no_grad():
            codes = [self._encode(chunk) for chunk in units.split(self._chunk())]
        return torch.cat(codes).reshape(frames.shape[0], frames.shape[1] // self.time_stride, *self.grid)

    def decode(self, codes: Tensor) -> Tensor:
        """Frames of codes; no gradient.

        Args:
            codes: (B, T / time_stride, h, w*C) int64 in [0, V).

        Returns:
            (B, T, H, W, 3) uint8.
        """
        units = self._units(self._checked_codes(codes), self.time_stride)
        with torch.no_grad():
            frames = [self._decode(chunk) for chunk in units.split(self._chunk())]
        return torch.cat(frames).reshape(codes.shape[0], codes.shape[1] * self.time_stride, *self.frame_shape)

    def loss(self, frames: Tensor, valid: Tensor) -> dict[str, Tensor]:
        """Loss of a batch; in training mode the codebook learns from it too.

        Args:
            frames: (B, T, H, W, 3) uint8.
            valid: (B, T) bool; frames marked False are seen by no one and carry no loss. At least one must be
                True. Where several processes train together, averages over them are the whole batch's.

        Returns:
            Scalars: `loss` = `reconstruction` (mean squared error over the data's variance, rare pixels
            weighted) + beta x `commitment`; `psnr` in dB, the mean over frames, never weighted; `perplexity`,
            codes in effective use; `dead_codes` that restarted, in evaluation mode those that would.
        """
        shown, learned = self._learned(self._checked(frames), valid)  # (N, ..., H, W, 3), (F,) or None
        pixels = self._standardise(shown)
        latents = self._latents(pixels)
        quantised = self.codebook(_flat(latents).float())
        output = self._output(_unflat(quantised.vectors, latents.shape))
        squares = self._by_frame((output - pixels).square())  # (F, 3, H, W)
        if learned is not None:
            squares = squares[learned]
        errors = squares.mean((1, 2, 3))  # (F,)
        weight = process_weight(len(errors), errors.device)
        if self.config.rare_weight == 1:
            reconstruction = errors.mean() * weight
        else:
            weights = self._by_frame(torch.where(self._rare(pixels), self.config.rare_weight, 1.0))  # (F, 1, H, W)
            weights = weights if learned is None else weights[learned]
            share = process_weight(weights.sum(), weights.device)
            reconstruction = (weights * squares).sum() / (3 * weights.sum()) * share
        mse = (errors.detach() * self.pixel_std.square()).clamp_min(1e-10)  # in units of the full range
        return {
            "loss": reconstruction + self.config.commitment * quantised.commitment,
            "reconstruction": reconstruction.detach(),
            "commitment": quantised.commitment.detach(),
            "psnr": (-10 * mse.log10()).mean() * weight,
            "perplexity": quantised.perplexity,
            "dead_codes": quantised.dead.float(),
        }

    # -- what the time axis decides ------------------------------------------------------------------------

    @abstractmethod
    def _units(self, values: Tensor, stride: int) -> Tensor:
        """(B, T / stride, ...) -> (N, ...), cut into what is encoded or decoded together."""

    @abstractmethod
    def _chunk(self) -> int:
        """Units encoded or decoded at once."""

    @abstractmethod
    def _learned(self, frames: Tensor, valid: Tensor) -> tuple[Tensor, Tensor | None]:
        """Units to learn from, invalid frames gone, and which of their frames carry loss, (F,) bool; None for all."""

    @abstractmethod
    def _by_frame(self, pixels: Tensor) -> Tensor:
        """(N, c, ..., H, W) -> (F, c, H, W)."""

    def _rare(self, pixels: Tensor) -> Tensor:
        """Which pixels are rare in any colour: (N, 3, ..., H, W) -> (N, 1, ..., H, W) bool."""
        shape = (3, *(1,) * (pixels.ndim - 4), *self.frame_shape[:2])
        return ((pixels - self.mean_picture.view(shape)).abs() > self.rare_distance.view(shape)).any(1, keepdim=True)

    # -- the way of the pixels -----------------------------------------------------------------------------

    def _checked(self, frames: Tensor) -> Tensor:
        if frames.dtype != torch.uint8 or frames.ndim != 5 or tuple(frames.shape[2:]) != self.frame_shape:
            raise UserError(
                f"frames: got {tuple(frames.shape)} {frames.dtype}, wanted (B, T, *{self.frame_shape}) uint8."
            )
        return frames

    def _checked_codes(self, codes: Tensor) -> Tensor:
        if codes.ndim != 4 or tuple(codes.shape[2:]) != self.grid:
            raise UserError(f"codes: got {tuple(codes.shape)}, wanted (B, T, *{self.grid}).")
        return codes

    def _standardise(self, frames: Tensor) -> Tensor:
        pixels = frames.float() / 255 - 0.5
        return ((pixels - self.pixel_mean) / self.pixel_std).movedim(-1, 1).contiguous()

    def _to_frames(self, output: Tensor) -> Tensor:
        pixels = output.movedim(1, -1) * self.pixel_std + self.pixel_mean
        return ((pixels + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)

    def _latents(self, pixels: Tensor) -> Tensor:
        """(N, 3, ..., H, W) -> (N, d, ..., h, w)."""
        return self.encoder(pixels)

    def _output(self, latents: Tensor) -> Tensor:
        """(N, d, ..., h, w) -> (N, 3, ..., H, W)."""
        return self.decoder(latents)

    def _encode(self, frames: Tensor) -> Tensor:
        return self.codebook.encode(_flat(self._latents(self._standardise(frames))).float())

    def _decode(self, codes: Tensor) -> Tensor:
        embeddings = self.codebook.decode(codes)  # (N, ..., h, w, d)
        return self._to_frames(self._output(embeddings.movedim(-1, 1).contiguous()))


def _flat(latents: Tensor) -> Tensor:
    """(N, d, ...) -> (N*places, d)."""
    return latents.movedim(1, -1).flatten(0, -2)


def _unflat(vectors: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `_flat`, given the latents' shape."""
    return vectors.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1).contiguous()
