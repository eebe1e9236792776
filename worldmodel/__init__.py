"""Learned worlds: record, train, step, evaluate.

Importing this package registers the gymnasium ids and loads no torch; the first use of `WorldModel`, `ClipModel` or
`DreamEnv` loads it.
"""

from typing import TYPE_CHECKING, Any

from worldmodel import dream as _dream
from worldmodel import envs as envs  # registers the environments with gymnasium, by strings
from worldmodel.common.version import VERSION
from worldmodel.dream import DREAM_ID as DREAM_ID

if TYPE_CHECKING:
    from worldmodel.dream.dream_env import DreamEnv
    from worldmodel.world.clip_model import ClipModel
    from worldmodel.world.world_model import WorldModel

__all__ = ["DREAM_ID", "ClipModel", "DreamEnv", "WorldModel", "envs"]
__version__ = VERSION

_dream.register()


def __getattr__(name: str) -> Any:
    if name == "WorldModel":
        from worldmodel.world.world_model import WorldModel

        return WorldModel
    if name == "ClipModel":
        from worldmodel.world.clip_model import ClipModel

        return ClipModel
    if name == "DreamEnv":
        from worldmodel.dream.dream_env import DreamEnv

        return DreamEnv
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
