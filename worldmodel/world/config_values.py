"""Checks of values from a config.json: type and range of each, with a sentence that names it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, TypeVar

from cattrs import transform_error
from cattrs.errors import BaseValidationError
from cattrs.v import format_exception

from worldmodel.common.errors import UserError
from worldmodel.common.run_info import strict_converter

T = TypeVar("T")

MAX_SIDE = 4096  # pixels of a frame's side
MAX_PIXELS = 2**22  # of a frame
MAX_PLACES = 2**14  # codes of a frame
MAX_CHOICES = 2**20  # numbers that describe one action

# Ranges of the fields of model configs, by name. A field that is not listed has the default range of its type.
INT_RANGE = (0, 2**16)
FLOAT_RANGE = (0.0, 1e9)
RANGES: dict[str, tuple[float, float]] = {
    "num_codes": (1, 2**20),
    "num_codebooks": (1, 2**10),
    "num_heads": (1, 2**10),
    "num_groups": (1, MAX_PLACES),
    "mixture": (1, 2**8),
    "window": (1, 2**12),
    "feedforward": (1, 2**6),
    "num_layers": (0, 2**8),
    "trunk_layers": (0, 2**8),
    "decoder_layers": (0, 2**8),
    **dict.fromkeys(("space_stride", "time_stride", "clip_length", "num_frames"), (1, 2**16)),
    **dict.fromkeys(("width", "code_width", "residual_width", "frame_units"), (1, 2**14)),
    **dict.fromkeys(("embed_dim", "action_dim", "code_dim"), (1, 2**14)),
    **dict.fromkeys(("codebook_decay", "dropout", "history_noise", "history_loss", "rare_share"), (0.0, 1.0)),
    "edges": (-1e30, 1e30),
    "encoded": (0, MAX_SIDE),
}


def refused(name: str, value: Any, wanted: str) -> UserError:
    """The error about one value."""
    shown = repr(value)
    return UserError(f"{name}={shown if len(shown) <= 80 else shown[:77] + '...'}: wanted {wanted}.")


def check_int(value: Any, name: str, low: int, high: int) -> int:
    """An integer of a range; a bool is none."""
    if type(value) is not int or not low <= value <= high:
        raise refused(name, value, f"an integer from {low} to {high}")
    return value


def check_float(value: Any, name: str, low: float, high: float) -> float:
    """A finite number of a range."""
    if type(value) not in (int, float) or not (math.isfinite(value) and low <= value <= high):
        raise refused(name, value, f"a number from {low:g} to {high:g}")
    return float(value)


def check_bool(value: Any, name: str) -> bool:
    """True or False."""
    if type(value) is not bool:
        raise refused(name, value, "true or false")
    return value


def check_text(value: Any, name: str) -> str:
    """A string."""
    if not isinstance(value, str):
        raise refused(name, value, "a string")
    return value


def check_object(value: Any, name: str, known: Iterable[str] | None = None) -> dict[str, Any]:
    """A JSON object, without fields other than the known ones."""
    if not isinstance(value, dict):
        raise refused(name, value, "an object")
    unknown = sorted(set(value) - set(known)) if known is not None else []
    if unknown:
        raise UserError(f"{name} has the unknown field {unknown[0]!r}.")
    return value


def check_list(value: Any, name: str, length: int | None = None) -> list[Any]:
    """A list, of a length if that is given."""
    if not isinstance(value, list | tuple) or (length is not None and len(value) != length):
        raise refused(name, value, "a list" if length is None else f"a list of {length}")
    return list(value)


def read_model_config(value: Any, kind: Any, name: str) -> Any:
    """A config dataclass, or one of a union, from JSON.

    Args:
        value: the JSON; fields that are missing take their defaults, as in directories of older versions.
        kind: the class or union.
        name: what errors call it.

    Raises:
        UserError: an unknown field, or a value of the wrong type or out of range.
    """
    check_object(value, name)
    try:
        config = strict_converter().structure(value, kind)
    except (BaseValidationError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise UserError(_first_problem(error, name)) from error
    check_ranges(config, name)
    return config


def check_ranges(config: Any, name: str) -> None:
    """Check every number of a config dataclass against `RANGES`, and those of the dataclasses inside it.

    Raises:
        UserError: a number of the wrong type or out of range.
    """
    for field in dataclasses.fields(config):
        value, label = getattr(config, field.name), f"{name}.{field.name}"
        if dataclasses.is_dataclass(value):
            check_ranges(value, label)
        elif isinstance(value, float) or (isinstance(value, int) and "float" in str(field.type)):
            check_float(value, label, *RANGES.get(field.name, FLOAT_RANGE))
        elif isinstance(value, int) and not isinstance(value, bool):
            low, high = RANGES.get(field.name, INT_RANGE)
            check_int(value, label, int(low), int(high))
        elif isinstance(value, tuple):
            for number in value:
                check_float(number, label, *RANGES.get(field.name, FLOAT_RANGE))


def check_model_size(tokenizer: Any, prior: Any, frame_shape: tuple[int, int, int]) -> None:
    """Check the numbers of both configs, and that a frame does not have too many codes.

    Args:
        tokenizer: config of the tokenizer.
        prior: config of the prior; None for a tokenizer alone.
        frame_shape: (H, W, 3).

    Raises:
        UserError: a number of the wrong type or out of range.
    """
    check_ranges(tokenizer, "tokenizer")
    if prior is not None:
        check_ranges(prior, "prior")
    top, bottom, left, right = tokenizer.encoded or (0, frame_shape[0], 0, frame_shape[1])
    height, width = bottom - top, right - left
    places = (height // tokenizer.space_stride) * (width // tokenizer.space_stride) * tokenizer.num_codebooks
    if places > MAX_PLACES:
        raise UserError(
            f"{height} x {width} encoded pixels with tokenizer.space_stride={tokenizer.space_stride} have {places} "
            f"codes: wanted at most {MAX_PLACES}. Take smaller frames or a larger stride."
        )


def check_world_tokenizer(tokenizer: Any, window: int) -> None:
    """Check that a world with this tokenizer can be stepped frame by frame, from any context.

    Args:
        tokenizer: config of the tokenizer.
        window: W, frames of the prior's context. A dream begins from their codes, so they must determine a frame.

    Raises:
        UserError: codes of whole clips or of several frames, or frames that depend on more than W codes.
    """
    if tokenizer.time == "clip" or tokenizer.time_stride != 1:
        raise UserError(
            f"a world is stepped frame by frame: got tokenizer.time={tokenizer.time!r} with "
            f"time_stride={tokenizer.time_stride}, wanted time='frame', or 'causal' with time_stride=1. Others are "
            "trained alone, with `worldmodel train tokenizer`, or in a clip model, with `worldmodel train clip`."
        )
    needed = 1 + (tokenizer.causal_past[1] if tokenizer.time == "causal" else 0)
    if window < needed:
        raise UserError(
            f"prior.window={window}: a frame of this causal tokenizer depends on {needed} steps of codes, and a dream "
            f"begins from those of the window. Give --prior.window {needed} or more, or fewer tokenizer.num_layers, or "
            "a smaller tokenizer.time_window."
        )


def _first_problem(error: Exception, name: str) -> str:
    """The first problem that cattrs found, as "field: problem."."""

    def phrase(error: BaseException, kind: type | None) -> str:
        return str(error).rstrip(".") if isinstance(error, UserError) else format_exception(error, kind)

    if not isinstance(error, BaseValidationError):
        return f"{name}: {str(error).rstrip('.')}."
    problem, _, path = transform_error(error, path=name, format_exception=phrase)[0].rpartition(" @ ")
    return f"{path}: {problem}."
