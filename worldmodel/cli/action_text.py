"""Actions written as text: 'left*8,right*3'."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldmodel.common import spaces
from worldmodel.common.errors import UserError, unknown_name


def parse_actions(text: str, space: spaces.Space, labels: Any = ()) -> np.ndarray:
    """'left*8,2*3' -> 11 actions. The numbers of one action with several are separated by spaces: '0 1*4'.

    Args:
        text: actions separated by commas or line breaks, each with the number of steps it is repeated.
        space: the action space.
        labels: names of a Discrete space's actions.

    Returns:
        (N,) for a Discrete space, else (N, A), of the space's dtype.

    Raises:
        UserError: not of that form, or not in the space.
    """
    if isinstance(space, spaces.NoAction):
        raise UserError(f"actions {text!r}: the world was learned from videos without actions; leave --actions out.")
    rows: list[Any] = []
    for part in filter(None, (p.strip() for p in text.replace("\n", ",").split(","))):
        name, star, times = part.partition("*")
        if star and not (times.strip().isdigit() and int(times)):
            raise UserError(f"actions {part!r}: wanted NAME*TIMES with a whole number of times, as left*8.")
        rows += [_parse_action(name.strip(), space, labels)] * (int(times) if star else 1)
    if not rows:
        raise UserError(f"actions {text!r}: wanted at least one action, as left*8.")
    return spaces.check_actions(space, np.asarray(rows, space.dtype))


def _parse_action(name: str, space: spaces.Space, labels: Any) -> Any:
    """One action from its label or its numbers."""
    if isinstance(space, spaces.Discrete) and name in labels:
        return list(labels).index(name)
    try:
        numbers = [float(x) for x in name.split()]
        if isinstance(space, spaces.Box):
            return numbers
        integers = [int(x) for x in numbers]
        if integers != numbers:
            raise ValueError
        return integers[0] if isinstance(space, spaces.Discrete) and len(integers) == 1 else integers
    except ValueError:
        if isinstance(space, spaces.Discrete) and labels:
            raise unknown_name("action", name, labels) from None
        raise UserError(f"action {name!r}: wanted numbers of {space}, separated by spaces.") from None
