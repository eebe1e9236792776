"""The error that the command line prints as one sentence, and its form for unknown names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can correct. The message states what is wrong, got, wanted and what to do.

    The command line prints the message without a traceback and exits with code 2.
    """


def unknown_name(what: str, got: str, choices: Iterable[str]) -> UserError:
    """Build the error for an unknown name.

    Args:
        what: what the name stands for, e.g. "environment".
        got: the name that was given.
        choices: every accepted name.

    Returns:
        A `UserError` that suggests the closest choice, if there is one, and lists all of them.
    """
    names = sorted(choices)
    close = difflib.get_close_matches(got, names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UserError(f"unknown {what} {got!r}.{hint} Choices: {', '.join(names)}.")
