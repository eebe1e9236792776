"""Named configurations of clip models."""

from __future__ import annotations

from worldmodel.prior.clip.clip_config import ClipConfig
from worldmodel.tokenizer import TokenizerConfig
from worldmodel.train.clip_training_config import ClipTraining
from worldmodel.train.training_config import LoopConfig

TINY_CLIP = ClipTraining(
    tokenizer=TokenizerConfig(
        time="clip",
        space_stride=8,
        time_stride=2,
        clip_length=4,
        width=24,
        residual_width=16,
        num_layers=1,
        axial_attention=False,
        num_codes=48,
        code_dim=8,
    ),
    prior=ClipConfig(num_frames=4, class_label=True, width=32, num_heads=2, num_layers=2),
    train_tokenizer=LoopConfig(
        num_steps=180, batch_size=8, clip_length=4, learning_rate=4e-3, warmup_steps=10, validations=1
    ),
    train_prior=LoopConfig(
        num_steps=160, batch_size=12, clip_length=4, learning_rate=8e-3, warmup_steps=10, validations=1
    ),
)

CLIP_PRESETS: dict[str, ClipTraining] = {"tiny-clip": TINY_CLIP}
