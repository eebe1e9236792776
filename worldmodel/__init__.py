"""Learned worlds: record, learn, step, judge.

Importing this package registers the gymnasium ids and loads no torch; `WorldModel` and `DreamEnv` load it when named.
"""

from typing import TYPE_CHECKING, Any

from worldmodel import dream as _dream
from worldmodel import envs as envs  # registers the real worlds with gymnasium, by strings
from worldmodel.dream import DREAM_ID as DREAM_ID

if TYPE_CHECKING:
    from worldmodel.dream.env import DreamEnv
    from worldmodel.model import WorldModel

__all__ = ["DREAM_ID", "DreamEnv", "WorldModel", "envs"]
__version__ = "0.1.0"

_dream.register()


def __getattr__(name: str) -> Any:
    if name == "WorldModel":
        from worldmodel.model import WorldModel

        return WorldModel
    if name == "DreamEnv":
        from worldmodel.dream.env import DreamEnv

        return DreamEnv
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
