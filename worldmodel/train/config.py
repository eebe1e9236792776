"""How a world is trained: plain data, every field a flag of `worldmodel train world`."""

from __future__ import annotations

from dataclasses import dataclass, field

from worldmodel.prior.build import PriorConfig
from worldmodel.prior.factored import FactoredConfig
from worldmodel.tokenizer.vqvae import TokenizerConfig


@dataclass(frozen=True)
class LoopConfig:
    """One training loop: AdamW, warm-up then a cosine to a twentieth, gradients clipped.

    Attributes:
        minutes: budget, turned into a number of steps once, after the first steps were timed.
        num_steps: number of steps; 0 takes the budget in minutes instead.
        min_steps: a budget is overrun for these, lest a busy machine leave the model untrained.
        batch_size: clips a step, of all processes together.
        clip_length: frames of a clip.
        learning_rate: at its highest.
        warmup_steps: steps until it is reached.
        weight_decay: of matrices; vectors have none.
        clip_norm: the gradient's norm is cut to this.
        log_every: steps between lines of the log.
        checkpoint_seconds: time between checkpoints.
    """

    minutes: float = 1.0
    num_steps: int = 0
    min_steps: int = 0
    batch_size: int = 16
    clip_length: int = 2
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    log_every: int = 20
    checkpoint_seconds: float = 30.0


@dataclass(frozen=True)
class WorldConfig:
    """A world's sizes and its training.

    Attributes:
        tokenizer: size of the tokenizer.
        prior: size of the prior.
        train_tokenizer: its loop; every frame of its short clips is learned.
        train_prior: its loop.
        num_starts: at least so many moments to begin dreams from are kept with the world.
        seed: of everything random in training.
    """

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    prior: PriorConfig = field(default_factory=FactoredConfig)
    train_tokenizer: LoopConfig = field(default_factory=LoopConfig)
    train_prior: LoopConfig = field(default_factory=lambda: LoopConfig(clip_length=16))
    num_starts: int = 256
    seed: int = 0
