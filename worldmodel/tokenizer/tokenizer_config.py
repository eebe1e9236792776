"""Sizes of a tokenizer, and the sizes that the paper uses (table 8)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from worldmodel.common.errors import UserError
from worldmodel.common.pixels import Crop
from worldmodel.common.ranges import check_range


@dataclass(frozen=True)
class TokenizerConfig:
    """Sizes of a tokenizer and settings of its losses.

    Attributes:
        time: "frame": each frame is encoded alone, which a dream needs; "clip": the paper's, a whole clip is encoded
            at once and each code may depend on all of its frames; "causal": a code depends on its frames and those
            before, so that a sequence can be encoded as it comes, and with time_stride 1 a dream can be stepped.
        space_stride: pixels per code, in rows and in columns; a power of two. "frame" supports 4, 8 and 16.
        time_stride: frames per code, a power of two; 1 with "frame".
        clip_length: frames encoded together, a multiple of time_stride; "clip" only.
        width: "frame": channels at a quarter of the frame's resolution; otherwise: channels everywhere (the paper's
            hidden units).
        code_width: channels on the latent grid; "frame" only.
        residual_width: channels inside a residual block (the paper's residual units); not of "frame".
        num_layers: residual blocks of the encoder, and of the decoder; not of "frame".
        axial_attention: whether those blocks have axial attention (paper table 3); not of "frame".
        num_heads: heads of each axial attention; not of "frame".
        time_window: R, steps of codes that the attention in time sees, the present one included; "causal" only.
        num_codes: V, codes in a codebook.
        num_codebooks: C; a code vector is cut into C equal slices, each with its own codebook (paper table 7).
        code_dim: d, numbers in a code vector, all slices together.
        codebook_decay: weight of the old average in each update of the codebook (paper: 0.99).
        restart_below: a code used less often per step than this restarts.
        commitment: beta, weight of the commitment loss (paper table 8: 0.25).
        encoded: (top, bottom, left, right), the part of the frame that is encoded, in pixels; None for the whole frame.
            What lies outside it is decoded from the codes of that part; "frame" only.
        rare_weight: weight of a rare pixel's error; 1 weights all pixels equally. A pixel is rare if it is far from
            the training split's mean frame or, except with "frame", if it changed since the frame before.

    Raises:
        UserError: values that are out of range or contradict each other.
    """

    time: Literal["frame", "clip", "causal"] = "frame"
    space_stride: int = 8
    time_stride: int = 1
    clip_length: int = 16
    width: int = 32
    code_width: int = 96
    residual_width: int = 32
    num_layers: int = 2
    axial_attention: bool = True
    num_heads: int = 2
    num_codes: int = 512
    num_codebooks: int = 1
    code_dim: int = 16
    codebook_decay: float = 0.99
    restart_below: float = 0.5
    commitment: float = 0.25
    rare_weight: float = 1.0
    encoded: Crop | None = None
    time_window: int = 4

    def __post_init__(self) -> None:
        if self.time not in ("frame", "clip", "causal"):
            raise UserError(f"tokenizer time={self.time!r}: wanted 'frame', 'clip' or 'causal'.")
        for name in (
            "width",
            "code_width",
            "residual_width",
            "num_heads",
            "num_codes",
            "num_codebooks",
            "code_dim",
            "time_window",
        ):
            check_range(f"tokenizer {name}", getattr(self, name), 1)
        for name in ("num_layers", "restart_below", "commitment"):
            check_range(f"tokenizer {name}", getattr(self, name), 0)
        check_range("tokenizer codebook_decay", self.codebook_decay, 0, 1)
        if self.code_dim % self.num_codebooks:
            raise UserError(
                f"tokenizer code_dim={self.code_dim} cannot be cut into num_codebooks={self.num_codebooks} equal "
                "slices: wanted a multiple of it."
            )
        if not self.rare_weight > 0:
            raise UserError(f"tokenizer rare_weight={self.rare_weight}: wanted a number above 0, or 1 for none.")
        if self.time == "frame":
            if self.space_stride not in (4, 8, 16):
                raise UserError(f"tokenizer space_stride={self.space_stride}: wanted 4, 8 or 16 pixels per code.")
            if self.time_stride != 1:
                raise UserError(
                    f"tokenizer time_stride={self.time_stride}: with time='frame' every frame is encoded alone, "
                    "so wanted 1. Use time='clip' or 'causal' for fewer codes in time."
                )
            return
        if self.encoded is not None:
            raise UserError(
                f"tokenizer encoded={self.encoded}: with time={self.time!r} whole frames are encoded; leave it out, or "
                "crop the frames."
            )
        for name, stride in (("space_stride", self.space_stride), ("time_stride", self.time_stride)):
            if stride < 1 or stride & (stride - 1):
                raise UserError(f"tokenizer {name}={stride}: wanted a power of two.")
        if self.time == "clip" and (self.clip_length < 1 or self.clip_length % self.time_stride):
            raise UserError(
                f"tokenizer clip_length={self.clip_length}: wanted a multiple of time_stride={self.time_stride}."
            )
        if self.axial_attention and self.width % self.num_heads:
            raise UserError(
                f"tokenizer width={self.width} cannot be shared by num_heads={self.num_heads}: wanted a multiple of it."
            )

    def saved_fields(self) -> dict[str, Any]:
        """The fields as JSON, for files and hashes. Without those that only a causal tokenizer has, if it is none.

        Earlier versions did not have those, and their hashes and unfinished trainings stay valid.
        """
        fields = asdict(self)
        if self.time != "causal":
            del fields["time_window"]
        return fields

    @property
    def causal_past(self) -> tuple[int, int]:
        """Of a causal tokenizer: the frames before its own that a code depends on, and the same for codes of a frame.

        A residual block reaches 2 steps back with its convolution and R - 1 with its attention; a convolution with
        stride 2 in time reaches one frame back, a transposed one one step.
        """
        blocks = self.num_layers * (2 + (self.time_window - 1 if self.axial_attention else 0))
        frames, codes = blocks, 0
        for _ in range(self.time_stride.bit_length() - 1):
            frames, codes = 2 * frames + 1, -(-codes // 2) + 1
        return frames, codes + blocks


# The columns of the paper's table 8, for clips of 16 frames of 64 x 64.
PAPER_MOVING_MNIST = TokenizerConfig(
    time="clip",
    space_stride=4,
    time_stride=4,
    width=240,
    residual_width=128,
    num_layers=2,
    axial_attention=False,
    num_codes=512,
    code_dim=64,
)
PAPER_BAIR = TokenizerConfig(  # RoboNet and ViZDoom too
    time="clip",
    space_stride=2,
    time_stride=2,
    width=240,
    residual_width=128,
    num_layers=4,
    num_codes=1024,
    code_dim=256,
)
PAPER_UCF = TokenizerConfig(  # TGIF too
    time="clip",
    space_stride=2,
    time_stride=4,
    width=240,
    residual_width=128,
    num_layers=4,
    num_codes=1024,
    code_dim=256,
)
