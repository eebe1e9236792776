"""The ablation tables of the VideoGPT paper (Yan et al. 2021, tables 3 to 7): their rows, and the figures on record.

A row changes the tokenizer or the prior of a base configuration and nothing else. Figures of the paper that are not
written here are not on record; none is filled in from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from worldmodel.common.errors import UserError, unknown_name
from worldmodel.prior.clip.clip_config import ClipConfig
from worldmodel.tokenizer import TokenizerConfig, make_tokenizer
from worldmodel.train.clip_training_config import ClipTraining
from worldmodel.train.training_config import LoopConfig

PRIOR_TABLE = "table4"  # the only one of priors; the others are of tokenizers
MAX_WIDTH = 4096  # of the search for an equal number of parameters

# A base that a CPU trains in minutes; the paper's is 240 channels, 1,024 codes of 256 numbers and 16 layers x 512.
# Budgets are processor time, so that a row is not trained for longer because the machine was idle.
SMALL_ABLATION = ClipTraining(
    tokenizer=TokenizerConfig(
        time="clip",
        space_stride=4,
        time_stride=4,
        clip_length=16,
        width=32,
        residual_width=32,
        num_layers=2,
        num_codes=1024,
        code_dim=64,
    ),
    prior=ClipConfig(num_frames=16, width=64, num_heads=4, num_layers=8),
    train_tokenizer=LoopConfig(
        minutes=4.0, clock="processor", batch_size=8, clip_length=16, learning_rate=2e-3, warmup_steps=20, validations=1
    ),
    train_prior=LoopConfig(  # without validations: their image takes a pass for each code
        minutes=4.0, clock="processor", batch_size=8, clip_length=16, learning_rate=2e-3, warmup_steps=20, validations=0
    ),
)


@dataclass(frozen=True)
class AblationRow:
    """One row of a table.

    Attributes:
        label: what the row changes.
        folder: first part of the names of its training directories.
        training: the base with the change.
        paper: the figures of the paper that are on record, name -> value.
    """

    label: str
    folder: str
    training: ClipTraining
    paper: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class AblationTable:
    """What a table varies.

    Attributes:
        title: what differs between its rows.
        varied: the fields of `ClipTraining` that differ, such as "tokenizer.num_codes".
    """

    title: str
    varied: tuple[str, ...]


TABLES: dict[str, AblationTable] = {
    "table3": AblationTable("axial attention in the tokenizer", ("tokenizer.axial_attention",)),
    "table4": AblationTable("layers of the prior", ("prior.num_layers",)),
    "table5": AblationTable("shape of the latents", ("tokenizer.time_stride", "tokenizer.space_stride")),
    "table6": AblationTable("number of codes", ("tokenizer.num_codes",)),
    "table7": AblationTable("number of codebooks", ("tokenizer.num_codebooks",)),
}

# Figures on record: bits/dim of the paper is what its public code logs, nats per code.
TABLE3_NMSE = {"off": 0.0041, "on": 0.0033}
TABLE4 = {2: (2.84, 120.4), 4: (2.52, 110.0), 8: (2.39, 103.3), 16: (2.05, 103.6)}  # layers -> bits/dim, FVD
CODES = (256, 1024, 4096)
CODEBOOKS = (1, 2, 4, 8)
# Ten shapes, as many as table 5 has; which ten those are is not on record.
STRIDES = ("1x4", "2x2", "2x4", "2x8", "4x2", "4x4", "4x8", "8x2", "8x4", "16x2")


def table_rows(
    table: str, base: ClipTraining, frame_shape: tuple[int, int, int], strides: Sequence[str] = STRIDES
) -> list[AblationRow]:
    """The rows of a table.

    Args:
        table: a key of `TABLES`.
        base: what the rows have in common.
        frame_shape: (H, W, 3) of the frames.
        strides: of table 5, "TIMExSPACE": frames and pixels per code.

    Raises:
        UserError: an unknown table; a base that is no tokenizer of clips; a row that the base does not allow.
    """
    if table not in TABLES:
        raise unknown_name("table", table, TABLES)
    if table != PRIOR_TABLE and base.tokenizer.time == "frame":
        raise UserError(
            f"tokenizer.time={base.tokenizer.time!r}: {table} is of tokenizers of whole clips; wanted 'clip'."
        )
    if table == "table3":
        return _attention_rows(base, frame_shape)
    if table == "table4":
        return [
            AblationRow(
                f"{count} layers",
                f"layers-{count}",
                replace(base, prior=replace(base.prior, num_layers=count)),
                {"bits/dim": bits, "FVD": fvd},
            )
            for count, (bits, fvd) in TABLE4.items()
        ]
    if table == "table5":
        return list(_stride_rows(base, frame_shape, strides))
    if table == "table6":
        return [_tokenizer_row(base, f"{n} codes", f"codes-{n}", num_codes=n) for n in CODES]
    return [
        _tokenizer_row(base, f"{n} codebook{'s' if n > 1 else ''}", f"codebooks-{n}", num_codebooks=n)
        for n in CODEBOOKS
    ]


def _tokenizer_row(base: ClipTraining, label: str, folder: str, **changes: Any) -> AblationRow:
    return AblationRow(label, folder, replace(base, tokenizer=replace(base.tokenizer, **changes)))


def _attention_rows(base: ClipTraining, frame_shape: tuple[int, int, int]) -> list[AblationRow]:
    """With attention; without it at the same width; without it at the width that has as many parameters."""
    on = replace(base.tokenizer, axial_attention=True)
    off = replace(on, axial_attention=False)
    equal = replace(off, width=equal_parameter_width(off, num_parameters(on, frame_shape), frame_shape))
    return [
        AblationRow("attention", "attention", replace(base, tokenizer=on), {"NMSE": TABLE3_NMSE["on"]}),
        AblationRow("no attention", "no-attention", replace(base, tokenizer=off), {"NMSE": TABLE3_NMSE["off"]}),
        AblationRow(
            f"no attention, width {equal.width}", "no-attention-equal-parameters", replace(base, tokenizer=equal)
        ),
    ]


def _stride_rows(
    base: ClipTraining, frame_shape: tuple[int, int, int], strides: Sequence[str]
) -> Iterator[AblationRow]:
    """Tokenizers of other strides, named by the shape of their latents.

    Raises:
        UserError: a text that is no pair of strides, or strides that do not divide the clip.
    """
    for text in strides:
        parts = text.split("x")
        if len(parts) != 2 or not all(part.isdecimal() for part in parts):
            raise UserError(f"strides {text!r}: wanted TIMExSPACE, frames and pixels per code, such as 4x8.")
        time, space = map(int, parts)
        if not time or not space or frame_shape[0] % space or frame_shape[1] % space:
            raise UserError(f"strides {text!r}: frames of {frame_shape[0]} x {frame_shape[1]} are no multiple of it.")
        shape = (base.tokenizer.clip_length // time, frame_shape[0] // space, frame_shape[1] // space)
        label, folder = " x ".join(map(str, shape)), "latents-" + "x".join(map(str, shape))
        yield _tokenizer_row(base, label, folder, time_stride=time, space_stride=space)


def num_parameters(config: TokenizerConfig, frame_shape: tuple[int, int, int]) -> int:
    """Number of parameters of a tokenizer, without its codebook, which has no gradient."""
    with torch.device("meta"):
        return sum(p.numel() for p in make_tokenizer(config, frame_shape).parameters())


def equal_parameter_width(config: TokenizerConfig, target: int, frame_shape: tuple[int, int, int]) -> int:
    """The width at which a tokenizer without attention has the number of parameters that is nearest to a target.

    Args:
        config: sizes; its width is replaced.
        target: number of parameters.
        frame_shape: (H, W, 3).

    Raises:
        UserError: wider than `MAX_WIDTH`.
    """

    def count(width: int) -> int:
        return num_parameters(replace(config, width=width), frame_shape)

    low, high = 1, 2  # count(low) < target <= count(high), found by doubling and then by halving
    while count(high) < target:
        low, high = high, 2 * high
        if low >= MAX_WIDTH:
            raise UserError(f"no width up to {MAX_WIDTH} has {target:,} parameters; wanted a smaller tokenizer.")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < target else (low, middle)
    return min((low, high), key=lambda width: abs(count(width) - target))
