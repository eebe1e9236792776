"""How a world is trained: plain data, every field a flag of `worldmodel train world`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal, TypeVar

from worldmodel.common.errors import UserError
from worldmodel.common.pixels import Crop
from worldmodel.prior.factored.factored_config import FactoredConfig
from worldmodel.prior.prior_registry import PriorConfig
from worldmodel.tokenizer.vqvae import TokenizerConfig


@dataclass(frozen=True)
class LoopConfig:
    """One training loop: AdamW, warm-up then a cosine to a twentieth, gradients clipped.

    Attributes:
        minutes: budget, turned into a number of steps once, after the first steps were timed.
        clock: what minutes are: "wall", or "processor", this process' own time on all its threads, which a
            busy machine does not shorten.
        num_steps: number of steps; 0 takes the budget in minutes instead.
        min_steps: a budget is overrun for these, lest a busy machine leave the model untrained.
        batch_size: clips a step, of all processes together.
        clip_length: frames of a clip.
        learning_rate: at its highest.
        warmup_steps: steps until it is reached.
        weight_decay: of matrices; vectors have none.
        clip_norm: the gradient's norm is cut to this.
        ema_decay: share of the old average kept at a step, of the averaged weights that are evaluated and
            saved in place of the last ones; 0 averages nothing.
        log_every: steps between lines of the log.
        validations: times in a run, evenly spread, the last at its end, that losses and pictures of fixed
            validation clips are logged; 0 for none.
        checkpoint_seconds: time between checkpoints.

    Raises:
        UserError: a number that makes no sense.
    """

    minutes: float = 1.0
    clock: Literal["wall", "processor"] = "wall"
    num_steps: int = 0
    min_steps: int = 0
    batch_size: int = 16
    clip_length: int = 2
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.0
    log_every: int = 20
    validations: int = 4
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"ema_decay={self.ema_decay}: wanted 0 (no average) or more, below 1, such as 0.999.")
        if self.validations < 0 or self.log_every < 1:
            raise UserError(
                f"validations={self.validations}, log_every={self.log_every}: wanted 0 or more, and 1 or more."
            )
        if self.num_steps < 0 or (not self.num_steps and self.minutes <= 0):
            raise UserError(
                f"num_steps={self.num_steps}, minutes={self.minutes}: wanted a number of steps, or 0 and minutes "
                "above 0."
            )


@dataclass(frozen=True)
class TokenizerTraining:
    """A tokenizer's size and its training.

    Attributes:
        crop: (top, bottom, left, right) of the recorded frames that is learned; all of them if not given.
        tokenizer: its size.
        train_tokenizer: its loop; every frame of its short clips is learned.
        seed: of everything random in training.
        overfit_one_batch: show the first batch at every step, to see whether it can be learned at all.
    """

    crop: Crop | None = None
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    train_tokenizer: LoopConfig = field(default_factory=LoopConfig)
    seed: int = 0
    overfit_one_batch: bool = False


@dataclass(frozen=True)
class PriorTraining:
    """A prior's size and its training.

    Attributes:
        prior: its size.
        train_prior: its loop.
        num_starts: at least so many moments to begin dreams from are kept with the world.
        seed: of everything random in training.
        overfit_one_batch: show the first batch at every step, to see whether it can be learned at all.
    """

    prior: PriorConfig = field(default_factory=FactoredConfig)
    train_prior: LoopConfig = field(default_factory=lambda: LoopConfig(clip_length=16))
    num_starts: int = 256
    seed: int = 0
    overfit_one_batch: bool = False

    def __post_init__(self) -> None:
        if self.num_starts < 1:
            raise UserError(f"num_starts={self.num_starts}: wanted at least 1.")


@dataclass(frozen=True)
class WorldConfig(TokenizerTraining, PriorTraining):
    """A world's sizes and its training: a tokenizer's and a prior's, with one seed."""


Half = TypeVar("Half", TokenizerTraining, PriorTraining)


def half(config: WorldConfig | Half, kind: type[Half]) -> Half:
    """Of a world's training only the tokenizer's, or only the prior's."""
    return kind(**{field.name: getattr(config, field.name) for field in fields(kind)})
