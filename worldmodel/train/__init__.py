"""Training: one visible loop for the tokenizer, one for the prior."""

from worldmodel.train.config import LoopConfig, WorldConfig
from worldmodel.train.world import train_world

__all__ = ["LoopConfig", "WorldConfig", "train_world"]
