"""Named configurations of clip models: a tiny one, and those of the VideoGPT paper (arXiv 2104.10157, tables 8 and 9).

What the paper does not state is this package's default: AdamW with warm-up, cosine decay, weight decay 0.01 and clipped
gradients. Every conditional preset has a twin without conditions, NAME-unconditional.
"""

from __future__ import annotations

from dataclasses import replace

from worldmodel.prior.clip.clip_config import ClipConfig
from worldmodel.tokenizer import PAPER_BAIR, PAPER_MOVING_MNIST, PAPER_UCF, TokenizerConfig
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


def _paper(tokenizer: TokenizerConfig, prior: ClipConfig, tokenizer_steps: int, prior_steps: int) -> ClipTraining:
    """A training with the paper's batch sizes and learning rates, which all columns of tables 8 and 9 share.

    Args:
        tokenizer: a column of table 8.
        prior: a column of table 9.
        tokenizer_steps, prior_steps: training steps.
    """
    loop = LoopConfig(batch_size=32, clip_length=16, log_every=50)
    return ClipTraining(
        tokenizer=tokenizer,
        prior=prior,
        train_tokenizer=replace(loop, num_steps=tokenizer_steps, learning_rate=7e-4),
        train_prior=replace(loop, num_steps=prior_steps, learning_rate=3e-4),
    )


# 16 frames of 64 x 64 as 4 x 16 x 16 codes. Section 4.2 speaks of 384 hidden features; table 9 has an embedding of 192
# and a feed-forward layer of 384, which is what the preset has. The condition of "1 x 64 x 64" is one frame.
_MOVING_MNIST = _paper(
    PAPER_MOVING_MNIST,
    ClipConfig(
        num_frames=16,
        positions="paper",
        num_given_frames=1,
        frame_encoder="resnet18",
        frame_units=512,
        width=192,
        feedforward=2,
        num_heads=4,
        num_layers=8,
        dropout=0.1,
    ),
    tokenizer_steps=20_000,
    prior_steps=80_000,
)

# 8 x 32 x 32 codes. The condition of "3 x 64 x 64" is read as one RGB frame (section 4.3: one frame in, 15 out). Of the
# 64 action numbers (16 actions of 4) the last 4 are 0 here: they act after the last frame. Table 9 has 16 layers; the
# paper's best FVD, 103.3, is that of 8 layers in table 4 (16 layers: 103.6), so `--prior.num-layers 8` is the model of
# the headline. `--prior.actions none` is the model of the frame alone.
_BAIR = _paper(
    PAPER_BAIR,
    ClipConfig(
        num_frames=16,
        positions="paper",
        num_given_frames=1,
        frame_encoder="resnet34",
        frame_units=512,
        actions="clip",
        action_per_frame=True,
        width=512,
        feedforward=4,
        num_heads=4,
        num_layers=16,
        dropout=0.2,
    ),
    tokenizer_steps=100_000,
    prior_steps=150_000,
)

# 8 x 32 x 32 codes, no frame. The condition is every action of the clip: 15 one-hot vectors of 4 (health gathering
# supreme: 60 numbers) or of 3 + 3 + 2 + 2 + 11 (battle2: 315 numbers). The size follows from the action space of the
# data, so both presets are the same; each names the data that it is for.
_DOOM = _paper(
    PAPER_BAIR,
    ClipConfig(
        num_frames=16,
        positions="paper",
        actions="clip",
        width=512,
        feedforward=4,
        num_heads=4,
        num_layers=16,
        dropout=0.2,
    ),
    tokenizer_steps=100_000,
    prior_steps=150_000,
)

# 4 x 32 x 32 codes, no condition. Table 9 gives UCF-101 200k and TGIF 600k steps.
_UCF101 = _paper(
    PAPER_UCF,
    ClipConfig(num_frames=16, positions="paper", width=1024, feedforward=4, num_heads=8, num_layers=20, dropout=0.2),
    tokenizer_steps=100_000,
    prior_steps=200_000,
)

PAPER_PRESETS: dict[str, ClipTraining] = {
    "moving-mnist": _MOVING_MNIST,
    "bair": _BAIR,
    "robonet": _BAIR,  # the same columns; the number of actions' numbers is that of the data
    "doom-hgs": _DOOM,
    "doom-battle2": _DOOM,
    "ucf101": _UCF101,
    # the same latent shape for frames of 128 x 128, so twice the stride in space
    "ucf101-128": replace(_UCF101, tokenizer=replace(PAPER_UCF, space_stride=4)),
    "tgif": replace(_UCF101, train_prior=replace(_UCF101.train_prior, num_steps=600_000)),
    # beyond the paper, whose models of UCF-101 have no condition: the class by conditional LayerNorm (section 3)
    "ucf101-class": replace(_UCF101, prior=replace(_UCF101.prior, class_label=True, class_dim=128)),
}


def without_conditions(training: ClipTraining) -> ClipTraining:
    """The same models and loops without conditions."""
    prior = replace(training.prior, actions="none", num_given_frames=0, class_label=False)
    return replace(training, prior=prior)


_TWINS = {
    f"{name}-unconditional": without_conditions(training)
    for name, training in PAPER_PRESETS.items()
    if training.prior.is_conditional
}

CLIP_PRESETS: dict[str, ClipTraining] = {"tiny-clip": TINY_CLIP, **PAPER_PRESETS, **_TWINS}
