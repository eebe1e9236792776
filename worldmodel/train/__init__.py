"""Training: one visible loop for the tokenizer, one for the prior."""

from worldmodel.train.config import LoopConfig, PriorTraining, TokenizerTraining, WorldConfig
from worldmodel.train.world import train_prior, train_tokenizer, train_world

__all__ = [
    "LoopConfig",
    "PriorTraining",
    "TokenizerTraining",
    "WorldConfig",
    "train_prior",
    "train_tokenizer",
    "train_world",
]
