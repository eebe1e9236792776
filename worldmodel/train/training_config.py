"""How a world is trained. Every field is a flag of `worldmodel train world`."""

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
    """One training loop: AdamW, gradient clipping, warm-up, then a cosine decay to a twentieth of the learning rate.

    Attributes:
        minutes: budget; converted to a number of steps once, after the first steps were timed.
        clock: how minutes are measured: "wall", or "processor" for the processor time of this process (all
            threads), which does not depend on the load of the machine.
        num_steps: number of steps; 0 uses `minutes` instead.
        min_steps: lower bound of the number of steps that a budget is converted to, so that a busy machine does
            not leave the model untrained.
        batch_size: clips per step, of all processes together.
        accumulation_steps: parts that the clips of a step are computed in, one after the other, to save memory. Their
            gradients are added, each weighted by its share of the frames that have a loss.
        clip_length: frames per clip.
        learning_rate: highest learning rate.
        warmup_steps: steps until the highest learning rate.
        weight_decay: of matrices; vectors have none.
        clip_norm: largest norm of the gradient.
        ema_decay: decay of the exponential moving average of the weights, which is evaluated and saved in place of
            the last weights; 0 for no average.
        log_every: steps between lines of the log.
        validations: number of validations, evenly spaced, the last one at the end. Each logs losses and images of
            fixed validation clips. 0 for none.
        checkpoint_seconds: seconds between checkpoints.

    Raises:
        UserError: a value is out of range.
    """

    minutes: float = 1.0
    clock: Literal["wall", "processor"] = "wall"
    num_steps: int = 0
    min_steps: int = 0
    batch_size: int = 16
    accumulation_steps: int = 1
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
        if not 1 <= self.accumulation_steps <= self.batch_size:
            raise UserError(
                f"accumulation_steps={self.accumulation_steps}: wanted 1 to batch_size={self.batch_size}, the parts of "
                "a batch."
            )
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
    """Size of a tokenizer and how it is trained.

    Attributes:
        crop: (top, bottom, left, right), the part of the recorded frames to use; None for whole frames.
        tokenizer: size of the tokenizer.
        train_tokenizer: the training loop; the loss covers every frame of its clips.
        seed: seed of all random numbers in training.
        overfit_one_batch: train on the first batch only, to test whether the model can fit it.
        mirror: mirror augmentation: each clip is flipped left to right, and its actions with it, with probability one
            half. For environments that declare it (`EnvRow.mirror`).
    """

    crop: Crop | None = None
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    train_tokenizer: LoopConfig = field(default_factory=LoopConfig)
    seed: int = 0
    overfit_one_batch: bool = False
    mirror: bool = False


@dataclass(frozen=True)
class PriorTraining:
    """Size of a prior and how it is trained.

    Attributes:
        prior: size of the prior.
        train_prior: the training loop.
        num_starts: minimum number of contexts, stored with the world, that dreams can begin from.
        seed: seed of all random numbers in training.
        overfit_one_batch: train on the first batch only, to test whether the model can fit it.
        mirror: as for `TokenizerTraining`.
        shuffled_actions: each clip has the actions of another clip of its batch. A control: the world learns that
            actions do not matter, so what a policy learns in its dreams is worth nothing outside.
    """

    prior: PriorConfig = field(default_factory=FactoredConfig)
    train_prior: LoopConfig = field(default_factory=lambda: LoopConfig(clip_length=16))
    num_starts: int = 256
    seed: int = 0
    overfit_one_batch: bool = False
    mirror: bool = False
    shuffled_actions: bool = False

    def __post_init__(self) -> None:
        if self.num_starts < 1:
            raise UserError(f"num_starts={self.num_starts}: wanted at least 1.")


@dataclass(frozen=True)
class WorldConfig(TokenizerTraining, PriorTraining):
    """Sizes of tokenizer and prior and how both are trained, with one seed."""


StageConfig = TypeVar("StageConfig", TokenizerTraining, PriorTraining)


def stage_config(config: WorldConfig | StageConfig, kind: type[StageConfig]) -> StageConfig:
    """The part of a world's config that one stage uses: the tokenizer's or the prior's."""
    return kind(**{field.name: getattr(config, field.name) for field in fields(kind)})
