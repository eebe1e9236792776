"""A VQ-VAE whose codes depend on the present and the past alone, so that a sequence can be encoded as it comes.

Shapes: B batch, T frames, H W pixels, h w latent grid, C codebooks, N sequences, D channels, R steps of the attention's
window. Inside, pixels are float (N, 3, T, H, W), standardised.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.common.errors import UserError
from worldmodel.common.torch_state import default_torch_modes
from worldmodel.tokenizer.causal_layers import CONV_PAST, CausalDownConv, CausalResidualBlock, CausalUpConv
from worldmodel.tokenizer.stream_state import Stream, StreamState
from worldmodel.tokenizer.tensor_shapes import to_vectors
from worldmodel.tokenizer.tokenizer import ENCODE_CHUNK
from worldmodel.tokenizer.tokenizer_config import TokenizerConfig
from worldmodel.tokenizer.tokenizer_layers import ChannelNorm, PositionEmbedding
from worldmodel.tokenizer.volume_tokenizer import VolumeTokenizer, conv_strides

MAX_STEPS = 64  # steps of codes computed at once, since the attention in time needs memory for all pairs


class CausalTokenizer(VolumeTokenizer):
    """The paper's VQ-VAE (section 2.1), causal in time.

    A code depends on its own frames and on at most `encoder_past` frames before them, a frame on its own code and on
    at most `decoder_past` steps of codes before it. The codes of the first frames of a sequence are therefore the
    first codes of the sequence. `encode` and `decode` take whole sequences; `encode_next` and `decode_next` take them
    in parts, with an explicit state. Both compute the same, up to rounding of the last digits of floats.
    """

    encoder: CausalEncoder
    decoder: CausalDecoder

    @default_torch_modes()
    def __init__(self, config: TokenizerConfig, frame_shape: tuple[int, int, int]) -> None:
        super().__init__(config, frame_shape)
        assert config.time == "causal"
        self.encoder_past, self.decoder_past = config.causal_past
        shape = (1, *self.latent_grid)
        self.position_embed = PositionEmbedding(shape, config.width) if config.axial_attention else None
        self.encoder = CausalEncoder(config, self.latent_grid)
        self.decoder = CausalDecoder(config, self.latent_grid)

    def encode(self, frames: Tensor) -> Tensor:
        """As `Tokenizer.encode`; the first frame of each row begins a sequence."""
        return self.encode_next(frames, self.init_encoder_state(len(frames)))[0]

    def decode(self, codes: Tensor) -> Tensor:
        """As `Tokenizer.decode`; the first codes of each row begin a sequence."""
        return self.decode_next(codes, self.init_decoder_state(len(codes)))[0]

    def init_encoder_state(self, num_rows: int) -> StreamState:
        """As `Tokenizer.init_encoder_state`."""
        return StreamState.start(num_rows, self.encoder.memory_size, self.pixel_mean.device)

    def init_decoder_state(self, num_rows: int) -> StreamState:
        """As `Tokenizer.init_decoder_state`."""
        return StreamState.start(num_rows, self.decoder.memory_size, self.pixel_mean.device)

    def encode_next(self, frames: Tensor, state: StreamState | None) -> tuple[Tensor, StreamState]:
        """As `Tokenizer.encode_next`."""
        self._check_frames(frames)
        assert state is not None
        return self._in_parts(self._encode_part, frames, state, self.time_stride)

    def decode_next(self, codes: Tensor, state: StreamState | None) -> tuple[Tensor, StreamState]:
        """As `Tokenizer.decode_next`."""
        self._check_codes(codes)
        assert state is not None
        return self._in_parts(self._decode_part, codes, state, 1)

    def decode_at(self, codes: Tensor, steps: list[int] | Tensor | slice) -> Tensor:
        """As `Tokenizer.decode_at`; all codes are decoded, since a frame depends on earlier codes."""
        return self.decode(codes)[:, steps]

    @torch.no_grad()
    def _in_parts(
        self,
        function: Callable[[Tensor, StreamState], tuple[Tensor, StreamState]],
        values: Tensor,
        state: StreamState,
        stride: int,
    ) -> tuple[Tensor, StreamState]:
        """Apply a function to a bounded number of rows and of steps of codes at a time.

        Args:
            function: takes and returns a part of the rows and steps, and the rows' state.
            values: (B, n * stride, ...), frames or codes.
            state: B rows.
            stride: values per step of codes.
        """
        outputs, memories, steps = [], [], []
        rows = self._units_per_chunk()
        length = min(MAX_STEPS, max(1, ENCODE_CHUNK // (min(rows, len(values)) * self.time_stride)))
        for first in range(0, len(values), rows):
            chunk = slice(first, first + rows)
            after = StreamState(state.memory[chunk], state.steps[chunk])
            parts = []
            for part in values[chunk].split(length * stride, 1):
                output, after = function(part, after)
                parts.append(output)
            outputs.append(torch.cat(parts, 1))
            memories.append(after.memory)
            steps.append(after.steps)
        return torch.cat(outputs), StreamState(torch.cat(memories), torch.cat(steps))

    def _encode_part(self, frames: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Codes of the next frames, (N, n, h, w*C)."""
        stream = Stream(state)
        latents = self.encoder(self._standardise(frames), self._positions(), stream)  # (N, d, n, h, w)
        codes = self.codebook.encode(to_vectors(latents).float())
        num_steps = latents.shape[2]
        return codes.view(len(frames), num_steps, *self.grid), stream.next_state(num_steps)

    def _decode_part(self, codes: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Frames of the next codes, (N, n * time_stride, H, W, 3) uint8."""
        stream = Stream(state)
        latents = self.codebook.decode(codes).movedim(-1, 1).contiguous()  # (N, d, n, h, w)
        pixels = self.decoder(latents, self._positions(), stream)
        return self._to_uint8(pixels), stream.next_state(codes.shape[1])

    def _positions(self) -> Tensor | None:
        """Position embeddings of rows and columns, (1, h, w, D)."""
        return self.position_embed() if self.position_embed is not None else None

    def _encode_pixels(self, pixels: Tensor) -> Tensor:
        return self.encoder(pixels, self._positions(), Stream(None))

    def _decode_latents(self, latents: Tensor) -> Tensor:
        return self.decoder(latents, self._positions(), Stream(None))

    def _to_units(self, values: Tensor, stride: int) -> Tensor:
        return values

    def _units_per_chunk(self) -> int:
        return ENCODE_CHUNK

    def _check_frames(self, frames: Tensor) -> None:
        super()._check_frames(frames)
        if frames.shape[1] % self.time_stride or not frames.shape[1]:
            raise UserError(
                f"frames: got {frames.shape[1]} frames per row, wanted a multiple of the tokenizer's "
                f"time_stride={self.time_stride}."
            )

    def _check_codes(self, codes: Tensor) -> None:
        super()._check_codes(codes)
        if not codes.shape[1]:
            raise UserError("codes: got 0 steps per row, wanted 1 or more.")


class CausalEncoder(nn.Module):
    """Strided convolutions, residual blocks, LN, ReLU, a 1x1x1 convolution to d channels.

    Args:
        config: sizes.
        grid: (h, w), the latent grid.

    Attributes:
        memory_size: numbers of a `StreamState`, per row.
    """

    def __init__(self, config: TokenizerConfig, grid: tuple[int, int]) -> None:
        super().__init__()
        width, strides = config.width, conv_strides(config)
        inputs = [3, *[width] * (len(strides) - 1)]
        self.down_convs = nn.ModuleList(CausalDownConv(n, width, s) for n, s in zip(inputs, strides, strict=True))
        self.blocks = _residual_blocks(config)
        self.norm = ChannelNorm(width)
        self.output_conv = nn.Conv3d(width, config.code_dim, 1)
        num_places = grid[0] * grid[1]
        self.memory_size = _blocks_memory(config) * num_places
        for channels, stride in zip(reversed(inputs), reversed(strides), strict=True):
            num_places *= stride[1] * stride[2]
            self.memory_size += (stride[0] - 1) * channels * num_places

    def forward(self, x: Tensor, positions: Tensor | None, stream: Stream) -> Tensor:
        """Pixels (N, 3, T, H, W) and position embeddings (1, h, w, D) to latents (N, d, T / time_stride, h, w)."""
        for i, layer in enumerate(self.down_convs):
            x = layer(F.relu(x) if i else x, stream)
        for block in self.blocks:
            x = block(x, positions, stream)
        return self.output_conv(F.relu(self.norm(x)))


class CausalDecoder(nn.Module):
    """The encoder in reverse, with transposed convolutions.

    Args:
        config: sizes.
        grid: (h, w), the latent grid.

    Attributes:
        memory_size: numbers of a `StreamState`, per row.
    """

    def __init__(self, config: TokenizerConfig, grid: tuple[int, int]) -> None:
        super().__init__()
        width, strides = config.width, conv_strides(config)[::-1]
        outputs = [*[width] * (len(strides) - 1), 3]
        self.input_conv = nn.Conv3d(config.code_dim, width, 1)
        self.blocks = _residual_blocks(config)
        self.norm = ChannelNorm(width)
        self.up_convs = nn.ModuleList(CausalUpConv(width, n, s) for n, s in zip(outputs, strides, strict=True))
        num_places = grid[0] * grid[1]
        self.memory_size = _blocks_memory(config) * num_places
        for stride in strides:
            self.memory_size += (stride[0] - 1) * width * num_places
            num_places *= stride[1] * stride[2]

    def forward(self, x: Tensor, positions: Tensor | None, stream: Stream) -> Tensor:
        """Latents (N, d, n, h, w) and position embeddings (1, h, w, D) to pixels (N, 3, n * time_stride, H, W)."""
        x = self.input_conv(x)
        for block in self.blocks:
            x = block(x, positions, stream)
        x = self.norm(x)
        for layer in self.up_convs:
            x = layer(F.relu(x), stream)
        return x


def _residual_blocks(config: TokenizerConfig) -> nn.ModuleList:
    heads = config.num_heads if config.axial_attention else 0
    return nn.ModuleList(
        CausalResidualBlock(config.width, config.residual_width, heads, config.time_window)
        for _ in range(config.num_layers)
    )


def _blocks_memory(config: TokenizerConfig) -> int:
    """Numbers that the residual blocks keep, per place: inputs of the convolutions, keys and values."""
    keys_and_values = 2 * (config.time_window - 1) if config.axial_attention else 0
    return config.num_layers * (CONV_PAST + keys_and_values) * config.width
