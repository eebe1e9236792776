"""Play real worlds: policies, their training, and recording to a dataset.

`record(env, policy, path)` records any gymnasium environment from Python; `worldmodel collect` is the same from
the command line, with training and several processes.
"""

from typing import Any

__all__ = ["record"]


def __getattr__(name: str) -> Any:
    if name == "record":
        from worldmodel.collect.recording import record

        return record
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
