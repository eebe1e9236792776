"""Checks of arguments that are integers."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from worldmodel.common.errors import UserError


def is_integer(value: Any) -> bool:
    """Whether a value is a Python or numpy integer; bool is not one."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def checked_integer(name: str, value: Any, least: int | None = 1) -> int:
    """An argument as a Python int.

    Args:
        name: of the argument.
        value: a Python or numpy integer.
        least: the smallest accepted value; None accepts any integer.

    Raises:
        UserError: not an integer, or too small.
    """
    if not is_integer(value) or (least is not None and value < least):
        raise UserError(f"{name}={value!r}: wanted an integer{'' if least is None else f' of at least {least}'}.")
    return operator.index(value)
