"""The base class of all tokenizers: normalise, quantise, compute the loss, encode and decode in chunks.

Shapes: B batch, T time, H W pixels, h w latent grid, C codebooks, d numbers in a code's embedding, V codes in a
codebook. A unit is what is encoded together: one frame or one clip. N units, F frames of all units. Frames are uint8
(..., H, W, 3). Inside, pixels are float, standardised, channels first: (N, 3, H, W) or (N, 3, L, H, W).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from worldmodel.common.errors import UserError
from worldmodel.common.processes import process_weight
from worldmodel.tokenizer.border import BorderDecoder
from worldmodel.tokenizer.codebook import Codebook
from worldmodel.tokenizer.stream_state import StreamState
from worldmodel.tokenizer.tensor_shapes import encoded_part, to_latents, to_vectors
from worldmodel.tokenizer.tokenizer_config import TokenizerConfig

ENCODE_CHUNK = 256  # frames encoded or decoded at once, to bound memory
RARE_STDS = 2.0  # a pixel is rare if it differs from the mean frame by more than this many standard deviations of its
RARE_MIN_DISTANCE = 0.04  # place, and by more than this share of the full range, so that noise is not rare


class Tokenizer(nn.Module, ABC):
    """Frames to codes and back. Subclasses build `encoder` and `decoder`.

    Args:
        config: sizes.
        frame_shape: (H, W, 3) of a whole frame; the sides of the part that is encoded must be multiples of the stride.

    Attributes:
        encoded: rows and columns of the part of a frame that is encoded, two slices; the whole frame unless
            `config.encoded` is given.
        encoded_shape: (rows, columns, 3) of that part.
        border: decodes what lies outside that part; None if there is nothing.
        latent_grid: (h, w), vectors per frame (and per time_stride frames).
        grid: (h, w*C), codes per step of time; the C codes of one place are adjacent.
        num_codes: V.
        time_stride: frames per step of codes.
        encoder_past: frames before its own that a code depends on, in a sequence that is streamed; 0 except for a
            causal tokenizer.
        decoder_past: steps of codes before its own that a frame depends on, likewise.

    Raises:
        UserError: the frame cannot be cut into whole patches.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    mean_frame: Tensor
    rare_distance: Tensor
    encoder: nn.Module
    decoder: nn.Module
    codebook: Codebook
    border: BorderDecoder | None

    def __init__(self, config: TokenizerConfig, frame_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.encoded, self.encoded_shape = encoded_part(config, frame_shape)
        height, width, _ = self.encoded_shape
        stride = config.space_stride
        if height % stride or width % stride:
            raise UserError(
                f"frames of {height} x {width} pixels cannot be cut into patches of {stride} x {stride}: "
                "wanted both sides to be multiples of it. Change the frame's size or crop, or the stride."
            )
        self.config = config
        self.frame_shape = (frame_shape[0], frame_shape[1], 3)
        self.latent_grid = (height // stride, width // stride)
        self.grid = (height // stride, width // stride * config.num_codebooks)
        self.num_codes = config.num_codes
        self.time_stride = config.time_stride
        self.encoder_past = self.decoder_past = 0
        self.register_buffer("pixel_mean", torch.zeros(3))
        self.register_buffer("pixel_std", torch.tensor(0.25))
        if config.rare_weight != 1:  # both standardised, as the pixels are
            self.register_buffer("mean_frame", torch.zeros(3, height, width))
            self.register_buffer("rare_distance", torch.ones(3, height, width))
        self.border = None
        self.codebook = Codebook(
            config.num_codes, config.code_dim, config.codebook_decay, config.restart_below, config.num_codebooks
        )

    @torch.no_grad()
    def fit_normaliser(self, frames: Iterable[Tensor]) -> None:
        """Fit the normaliser: the mean of each colour and one standard deviation of all pixels.

        The reconstruction loss is then the paper's: mean squared error over the variance of the data. With a rare
        weight, also fit the mean frame and the distance from it beyond which each pixel is rare. Only the encoded part
        of the frames counts.

        Args:
            frames: chunks of the training split's valid frames, each (N, H, W, 3) uint8.
        """
        count = 0
        total = torch.zeros(self.encoded_shape, dtype=torch.float64)
        squares = torch.zeros_like(total)
        for chunk in frames:
            part = self.encoded_part(chunk.reshape(-1, *self.frame_shape))
            pixels = part.cpu().to(torch.float64) / 255 - 0.5
            count += len(pixels)
            total += pixels.sum(0)
            squares += pixels.square().sum(0)
        if not count:
            raise UserError("the training split holds no valid frame, so there is nothing to learn from.")
        place_mean, mean_square = total / count, squares / count  # (H, W, 3)
        mean = place_mean.mean((0, 1))
        std = (mean_square.mean() - mean.square().mean()).clamp_min(1e-4).sqrt()
        self.pixel_mean.copy_(mean)
        self.pixel_std.copy_(std)
        if self.config.rare_weight != 1:
            place_std = (mean_square - place_mean.square()).clamp_min(0).sqrt()
            distance = (RARE_STDS * place_std).clamp_min(RARE_MIN_DISTANCE)
            self.mean_frame.copy_(((place_mean - mean) / std).movedim(-1, 0))
            self.rare_distance.copy_((distance / std).movedim(-1, 0))

    def encoded_part(self, frames: Tensor) -> Tensor:
        """The part of frames that is encoded: (..., H, W, 3) -> (..., rows, columns, 3)."""
        rows, columns = self.encoded
        return frames[..., rows, columns, :]

    def encode(self, frames: Tensor) -> Tensor:
        """Frames to codes; no gradient.

        Args:
            frames: (B, T, H, W, 3) uint8.

        Returns:
            (B, T / time_stride, h, w*C) int64 in [0, V).

        Raises:
            UserError: another shape or dtype, or a number of frames that is not a multiple of the clip length.
        """
        self._check_frames(frames)
        units = self._to_units(frames, 1)
        with torch.no_grad():
            codes = [self.encode_units(chunk) for chunk in units.split(self._units_per_chunk())]
        return torch.cat(codes).reshape(frames.shape[0], frames.shape[1] // self.time_stride, *self.grid)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes to frames; no gradient.

        Args:
            codes: (B, T / time_stride, h, w*C) int64 in [0, V).

        Returns:
            (B, T, H, W, 3) uint8.

        Raises:
            UserError: another shape, or a number of steps that is not a multiple of a clip's.
        """
        self._check_codes(codes)
        units = self._to_units(codes, self.time_stride)
        with torch.no_grad():
            frames = [self.decode_units(chunk) for chunk in units.split(self._units_per_chunk())]
        return torch.cat(frames).reshape(codes.shape[0], codes.shape[1] * self.time_stride, *self.frame_shape)

    def init_encoder_state(self, num_rows: int) -> StreamState | None:
        """The state of `encode_next` before the first frame of each row; None for a tokenizer without a past."""
        return None

    def init_decoder_state(self, num_rows: int) -> StreamState | None:
        """The state of `decode_next` before the first code of each row; None for a tokenizer without a past."""
        return None

    def encode_next(self, frames: Tensor, state: StreamState | None) -> tuple[Tensor, StreamState | None]:
        """As `encode`, for frames (B, T, H, W, 3) that follow those of earlier calls; also the state after them."""
        return self.encode(frames), None

    def decode_next(self, codes: Tensor, state: StreamState | None) -> tuple[Tensor, StreamState | None]:
        """As `decode`, for codes (B, n, h, w*C) that follow those of earlier calls; also the state after them."""
        return self.decode(codes), None

    def decode_at(self, codes: Tensor, steps: list[int] | Tensor | slice) -> Tensor:
        """The frames of some time steps of sequences, if a step is one frame: (B, n, h, w*C) -> (B, m, H, W, 3)."""
        return self.decode(codes[:, steps])

    def loss(self, frames: Tensor, valid: Tensor) -> dict[str, Tensor]:
        """Loss of a batch; in training mode the codebook is updated too.

        Args:
            frames: (B, T, H, W, 3) uint8.
            valid: (B, T) bool; invalid frames have no influence and no loss. At least one must be True. Where
                several processes train together, the average of their losses is the whole batch's.

        Returns:
            Scalars: `loss` = `reconstruction` (mean squared error over the data's variance, rare pixels weighted)
            + beta * `commitment` + `border` (mean squared error outside the encoded part, if there is anything; its
            gradient does not reach the codes); `psnr` in dB, the mean over frames, never weighted, and `border_psnr`,
            the same outside the encoded part; `perplexity`, codes in effective use; `dead_codes` that restarted, in
            evaluation mode those that would.
        """
        self._check_frames(frames)
        units, has_loss = self._training_units(frames, valid)  # (N, ..., H, W, 3), (F,) or None
        pixels = self._standardise(self.encoded_part(units))
        latents = self._encode_pixels(pixels)
        quantised = self.codebook(to_vectors(latents).float())
        latents = to_latents(quantised.vectors, latents.shape)
        output = self._decode_latents(latents)
        squares = self._flatten_time((output - pixels).square())  # (F, 3, H, W)
        if has_loss is not None:
            squares = squares[has_loss]
        errors = squares.mean((1, 2, 3))  # (F,)
        weight = process_weight(len(errors), errors.device)
        if self.config.rare_weight == 1:
            reconstruction = errors.mean() * weight
        else:
            is_rare = self._flatten_time(self._rare_pixels(pixels))  # (F, 1, H, W)
            pixel_weights = torch.ones_like(is_rare, dtype=torch.float32)
            pixel_weights.masked_fill_(is_rare, self.config.rare_weight)
            pixel_weights = pixel_weights if has_loss is None else pixel_weights[has_loss]
            share = process_weight(pixel_weights.sum(), pixel_weights.device)
            reconstruction = (pixel_weights * squares).sum() / (3 * pixel_weights.sum()) * share
        losses = {
            "loss": reconstruction + self.config.commitment * quantised.commitment,
            "reconstruction": reconstruction.detach(),
            "commitment": quantised.commitment.detach(),
            "psnr": self._psnr(errors) * weight,
            "perplexity": quantised.perplexity,
            "dead_codes": quantised.num_dead.float(),
        }
        if self.border is not None:
            border = self.border_losses(units, latents.detach())
            losses |= {**border, "loss": losses["loss"] + border["border"]}
        return losses

    def border_losses(self, frames: Tensor, latents: Tensor) -> dict[str, Tensor]:
        """Loss outside the encoded part.

        Args:
            frames: (N, H, W, 3) uint8.
            latents: (N, d, h, w), embeddings of their codes.

        Returns:
            Scalars `border`, the mean squared error over the data's variance, and `border_psnr` in dB.
        """
        assert self.border is not None
        pixels = self._standardise(frames)
        rows, columns = self.encoded
        inside = pixels[:, :, rows, columns]  # equal to the real pixels, so without an error
        squares = (self.border(latents, inside) - pixels).square()  # (N, 3, H, W)
        share = 1 - inside[0].numel() / pixels[0].numel()  # of pixels outside
        errors = squares.mean((1, 2, 3)) / share  # (N,)
        weight = process_weight(len(errors), errors.device)
        return {"border": errors.mean() * weight, "border_psnr": self._psnr(errors) * weight}

    def _psnr(self, errors: Tensor) -> Tensor:
        """Mean PSNR in dB of frames with these mean squared errors over the data's variance, (F,)."""
        mse = (errors.detach() * self.pixel_std.square()).clamp_min(1e-10)  # in units of the full range
        return (-10 * mse.log10()).mean()

    def encode_units(self, frames: Tensor) -> Tensor:
        """Frames or clips to codes, in one pass: (N, ..., H, W, 3) uint8 -> (N*...*h*w*C,) int64."""
        pixels = self._standardise(self.encoded_part(frames))
        return self.codebook.encode(to_vectors(self._encode_pixels(pixels)).float())

    def decode_units(self, codes: Tensor) -> Tensor:
        """Codes to frames or clips, in one pass: (N, ..., h, w*C) int64 -> (N, ..., H, W, 3) uint8."""
        embeddings = self.codebook.decode(codes)  # (N, ..., h, w, d)
        latents = embeddings.movedim(-1, 1).contiguous()
        output = self._decode_latents(latents)
        return self._to_uint8(output if self.border is None else self.border(latents, output))

    # -- what depends on the time axis ---------------------------------------------------------------------

    @abstractmethod
    def _to_units(self, values: Tensor, stride: int) -> Tensor:
        """(B, T / stride, ...) -> (N, ...), cut into units."""

    @abstractmethod
    def _units_per_chunk(self) -> int:
        """Units encoded or decoded at once."""

    @abstractmethod
    def _training_units(self, frames: Tensor, valid: Tensor) -> tuple[Tensor, Tensor | None]:
        """Units without invalid frames, and which of their frames have a loss, (F,) bool; None for all."""

    @abstractmethod
    def _flatten_time(self, pixels: Tensor) -> Tensor:
        """(N, c, ..., H, W) -> (F, c, H, W)."""

    def _rare_pixels(self, pixels: Tensor) -> Tensor:
        """Which pixels are rare in any colour: (N, 3, ..., H, W) -> (N, 1, ..., H, W) bool."""
        shape = (3, *(1,) * (pixels.ndim - 4), *self.encoded_shape[:2])
        return ((pixels - self.mean_frame.view(shape)).abs() > self.rare_distance.view(shape)).any(1, keepdim=True)

    # -- pixels and latents --------------------------------------------------------------------------------

    def _check_frames(self, frames: Tensor) -> None:
        """Refuse frames that are not (B, T, H, W, 3) uint8."""
        if frames.dtype != torch.uint8 or frames.ndim != 5 or tuple(frames.shape[2:]) != self.frame_shape:
            raise UserError(
                f"frames: got {tuple(frames.shape)} {frames.dtype}, wanted (B, T, *{self.frame_shape}) uint8."
            )

    def _check_codes(self, codes: Tensor) -> None:
        """Refuse codes that are not (B, T, h, w*C)."""
        if codes.ndim != 4 or tuple(codes.shape[2:]) != self.grid:
            raise UserError(f"codes: got {tuple(codes.shape)}, wanted (B, T, *{self.grid}).")

    def _standardise(self, frames: Tensor) -> Tensor:
        """(N, ..., H, W, 3) uint8 -> (N, 3, ..., H, W) float32."""
        pixels = frames.float() / 255 - 0.5
        return ((pixels - self.pixel_mean) / self.pixel_std).movedim(-1, 1).contiguous()

    def _to_uint8(self, output: Tensor) -> Tensor:
        """The inverse of `_standardise`, rounded and clipped."""
        pixels = output.movedim(1, -1) * self.pixel_std + self.pixel_mean
        return ((pixels + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)

    def _encode_pixels(self, pixels: Tensor) -> Tensor:
        """The encoded part: (N, 3, ..., rows, columns) -> (N, d, ..., h, w)."""
        return self.encoder(pixels)

    def _decode_latents(self, latents: Tensor) -> Tensor:
        """(N, d, ..., h, w) -> (N, 3, ..., rows, columns) of the encoded part."""
        return self.decoder(latents)
