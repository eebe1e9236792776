"""How a clip model is trained. Every field is a flag of `worldmodel train clip`."""

from __future__ import annotations

from dataclasses import dataclass, field

from worldmodel.common.errors import UserError
from worldmodel.prior.clip.clip_config import ClipConfig
from worldmodel.train.training_config import LoopConfig, TokenizerTraining


@dataclass(frozen=True)
class ClipTraining(TokenizerTraining):
    """Sizes of tokenizer and clip prior and how both are trained, with one seed.

    Attributes:
        prior: size of the prior, and what it is conditioned on.
        train_prior: the training loop; its clips have prior.num_frames frames.
        activation_checkpointing: compute the activations of the prior's blocks again in the backward pass: less memory,
            about a third more time, the same gradients.

    Raises:
        UserError: clips of the loops that do not fit the models.
    """

    prior: ClipConfig = field(default_factory=ClipConfig)
    train_prior: LoopConfig = field(default_factory=lambda: LoopConfig(clip_length=16))
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.mirror:
            raise UserError("mirror=True: clip models have no mirror augmentation; leave it out.")
        if self.train_prior.clip_length != self.prior.num_frames:
            raise UserError(
                f"train-prior.clip-length={self.train_prior.clip_length} and prior.num-frames={self.prior.num_frames}: "
                "a clip prior learns whole clips, so wanted the same number."
            )
        length, name = (
            self.train_tokenizer.clip_length,
            "clip_length" if self.tokenizer.time == "clip" else "time_stride",
        )
        unit = getattr(self.tokenizer, name)
        if length % unit:
            raise UserError(
                f"train-tokenizer.clip-length={length}: wanted a multiple of the tokenizer.{name.replace('_', '-')}="
                f"{unit} frames that are encoded together."
            )
