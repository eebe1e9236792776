"""Policies, their training and evaluation in an environment, and recording of episodes to a dataset.

`record(env, policy, path)` records any gymnasium environment from Python. `worldmodel collect` does the same on the
command line; it can also train the policy first.
"""

from typing import Any

__all__ = ["record"]


def __getattr__(name: str) -> Any:
    if name == "record":
        from worldmodel.collect.recording import record

        return record
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
