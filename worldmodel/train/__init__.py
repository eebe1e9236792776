"""Training of tokenizers, priors and worlds."""

from worldmodel.train.trainers import train_prior, train_tokenizer, train_world
from worldmodel.train.training_config import LoopConfig, PriorTraining, TokenizerTraining, WorldConfig

__all__ = [
    "LoopConfig",
    "PriorTraining",
    "TokenizerTraining",
    "WorldConfig",
    "train_prior",
    "train_tokenizer",
    "train_world",
]
