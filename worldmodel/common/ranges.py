"""Range checks of settings, with one wording of the error."""

from __future__ import annotations

import math

from worldmodel.common.errors import UserError


def check_range(what: str, value: float, low: float, high: float = math.inf) -> None:
    """Refuse a number outside [low, high], and NaN.

    Args:
        what: the setting as the user knows it, e.g. "prior window".
        value: its value.
        low: smallest accepted value.
        high: largest accepted value.

    Raises:
        UserError: the number is outside the range.
    """
    if not low <= value <= high:
        wanted = f"{low} or more" if math.isinf(high) else f"{low} to {high}"
        raise UserError(f"{what}={value}: wanted {wanted}.")
