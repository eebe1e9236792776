"""The one error that users see as a sentence, and the sentence about an unknown name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can mend: what, got, wanted, what to do, in one sentence.

    It is a ValueError in Python; the command line prints it without a traceback and exits with code 2.
    """


def unknown_name(what: str, got: str, choices: Iterable[str]) -> UserError:
    """Build the error for a name that no registry knows.

    Args:
        what: the kind of thing, e.g. "environment".
        got: what the user typed.
        choices: every name that would have been accepted.

    Returns:
        A `UserError` that names the closest choice, if there is one, and lists all of them.
    """
    names = sorted(choices)
    close = difflib.get_close_matches(got, names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UserError(f"unknown {what} {got!r}.{hint} Choices: {', '.join(names)}.")
