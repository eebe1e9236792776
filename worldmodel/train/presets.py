"""Named configurations."""

from __future__ import annotations

from dataclasses import replace

from worldmodel.prior.factored.factored_config import FactoredConfig
from worldmodel.prior.flat.flat_config import FlatConfig
from worldmodel.prior.status_config import StatusConfig
from worldmodel.tokenizer.vqvae import TokenizerConfig
from worldmodel.train.training_config import LoopConfig, WorldConfig

TINY = WorldConfig(
    tokenizer=TokenizerConfig(width=8, code_width=16, num_codes=16, code_dim=4),
    prior=FactoredConfig(
        window=2,
        width=32,
        num_heads=2,
        trunk_layers=1,
        decoder_layers=1,
        embed_dim=16,
        action_dim=8,
        history_noise=0.02,
    ),
    train_tokenizer=LoopConfig(num_steps=150, batch_size=8, learning_rate=4e-3, warmup_steps=10),
    train_prior=LoopConfig(num_steps=120, batch_size=16, clip_length=3, learning_rate=4e-3, warmup_steps=10),
    num_starts=32,
)

# The toy's dream is exact except for what is hidden. The quarter of a storm spans several places, so that they must be
# sampled in an order in which places are conditioned on each other. Four frames reach from a flash to its storm.
TOY = WorldConfig(
    tokenizer=TokenizerConfig(space_stride=4, width=16, code_width=16, num_codes=32, code_dim=8),
    prior=FactoredConfig(
        order="raster",
        window=4,
        width=64,
        num_heads=2,
        trunk_layers=2,
        decoder_layers=1,
        embed_dim=16,
        action_dim=8,
        history_noise=0.0,
        status=StatusConfig("lives", (0.5, 1.5, 2.5)),
    ),
    train_tokenizer=LoopConfig(num_steps=2000, batch_size=16, learning_rate=4e-3, warmup_steps=10),
    train_prior=LoopConfig(num_steps=3000, batch_size=32, clip_length=6, learning_rate=3e-3, ema_decay=0.995),
)

HEALTH = StatusConfig("health", (26.5, 47.5, 68.5, 89.5))  # a hit takes 21 or more of 100
COVER_PART = (20, 52, 0, 64)  # the rows of take-cover in which fireballs and monsters move; the rest follows from them

# Sampling all places at once kept the order of policies best after some minutes of training, and is the fastest
# (docs/benchmarks.md, "Worlds of take-cover").
DOOM_TAKE_COVER_DEMO = WorldConfig(
    prior=FactoredConfig(
        order="frame",
        window=3,
        width=96,
        num_heads=4,
        trunk_layers=2,
        decoder_layers=1,
        embed_dim=32,
        rare_weight=4.0,
        status=HEALTH,
    ),
    tokenizer=TokenizerConfig(encoded=COVER_PART, rare_weight=4.0),
    train_tokenizer=LoopConfig(minutes=2.0, min_steps=600, batch_size=8, clip_length=2, learning_rate=3e-3),
    train_prior=LoopConfig(minutes=3.5, min_steps=600, batch_size=16, clip_length=4, learning_rate=2e-3),
)

DOOM_TAKE_COVER_SMALL = WorldConfig(
    tokenizer=TokenizerConfig(encoded=COVER_PART, rare_weight=4.0),
    prior=FactoredConfig(window=4, width=128, num_heads=4, embed_dim=48, rare_weight=4.0, status=HEALTH),
    train_tokenizer=LoopConfig(minutes=12.0, min_steps=600, batch_size=8, clip_length=2, learning_rate=3e-3),
    train_prior=LoopConfig(minutes=46.0, min_steps=600, batch_size=16, clip_length=5, learning_rate=1.5e-3),
)

# The other worlds of an hour on two cores encode whole frames, 64 codes each: the camera moves, or the arm and the toys
# may be anywhere.
HEALTH_BINS = StatusConfig("health", (12.5, 25.0, 37.5, 50.0, 62.5, 75.0, 87.5))
SMALL_TOKENIZER = LoopConfig(minutes=14.0, min_steps=600, batch_size=8, clip_length=2, learning_rate=3e-3)
SMALL_PRIOR = LoopConfig(minutes=44.0, min_steps=600, batch_size=16, clip_length=5, learning_rate=1.5e-3)

DOOM_HGS_SMALL = WorldConfig(
    tokenizer=TokenizerConfig(rare_weight=4.0),
    prior=FactoredConfig(embed_dim=48, rare_weight=4.0, status=HEALTH_BINS),
    train_tokenizer=SMALL_TOKENIZER,
    train_prior=SMALL_PRIOR,
)

# A reward is a monster killed: rewards are rare, so they weigh more.
DOOM_BATTLE2_SMALL = replace(
    DOOM_HGS_SMALL, prior=FactoredConfig(embed_dim=48, rare_weight=4.0, reward_weight=0.3, status=HEALTH_BINS)
)

# Nothing is hidden but velocities: two frames show them, and toys rest most of the time. Two codes for each place: toys
# of any colour and shape lie in any place.
PUSH_SMALL = WorldConfig(
    tokenizer=TokenizerConfig(num_codes=512, num_codebooks=2, code_dim=32, rare_weight=4.0),
    prior=FactoredConfig(window=3, embed_dim=48, action_dim=32, rare_weight=4.0),
    train_tokenizer=SMALL_TOKENIZER,
    train_prior=replace(SMALL_PRIOR, clip_length=4),
)

TINY_FLAT = replace(TINY, prior=FlatConfig(window=2, width=32, num_heads=2, num_layers=2, action_dim=8))

DOOM_TAKE_COVER_FLAT = replace(
    DOOM_TAKE_COVER_DEMO,
    prior=FlatConfig(
        window=4,
        width=128,
        num_heads=4,
        num_layers=3,
        status=HEALTH,
    ),
    train_prior=LoopConfig(minutes=20.0, min_steps=600, batch_size=8, clip_length=8, learning_rate=1e-3),
)

# For one large GPU and some minutes (benchmarks/gpu_first_dream.py): whole frames, 64 codes each.
GPU_PRIOR = FactoredConfig(
    window=8,
    width=384,
    num_heads=6,
    trunk_layers=6,
    decoder_layers=3,
    embed_dim=64,
    rare_weight=4.0,
    status=HEALTH,
)

DOOM_TAKE_COVER_GPU = WorldConfig(
    tokenizer=TokenizerConfig(width=64, code_width=192, num_codes=1024, rare_weight=4.0),
    prior=GPU_PRIOR,
    train_tokenizer=LoopConfig(
        minutes=1.25, batch_size=256, clip_length=2, learning_rate=1e-3, warmup_steps=200, log_every=50
    ),
    train_prior=LoopConfig(
        minutes=3.0,
        batch_size=256,
        clip_length=9,
        learning_rate=8e-4,
        warmup_steps=300,
        ema_decay=0.999,
        log_every=50,
    ),
)

DOOM_TAKE_COVER_GPU_FLAT = replace(
    DOOM_TAKE_COVER_GPU,
    prior=FlatConfig(
        window=8,
        width=384,
        num_heads=6,
        num_layers=9,
        status=HEALTH,
    ),
    train_prior=replace(DOOM_TAKE_COVER_GPU.train_prior, batch_size=64),
)

# The same sizes for the other worlds (benchmarks/gpu_worlds.py).
DOOM_HGS_GPU = replace(DOOM_TAKE_COVER_GPU, prior=replace(GPU_PRIOR, status=HEALTH_BINS))
DOOM_BATTLE2_GPU = replace(DOOM_TAKE_COVER_GPU, prior=replace(GPU_PRIOR, status=HEALTH_BINS, reward_weight=0.3))
PUSH_GPU = replace(
    DOOM_TAKE_COVER_GPU,
    tokenizer=replace(DOOM_TAKE_COVER_GPU.tokenizer, num_codes=512, num_codebooks=2, code_dim=32),
    prior=replace(GPU_PRIOR, window=4, action_dim=32, status=StatusConfig()),
    train_prior=replace(DOOM_TAKE_COVER_GPU.train_prior, clip_length=6),
)

PRESETS: dict[str, WorldConfig] = {
    "tiny": TINY,
    "tiny-flat": TINY_FLAT,
    "toy": TOY,
    "doom-take-cover-demo": DOOM_TAKE_COVER_DEMO,
    "doom-take-cover-small": DOOM_TAKE_COVER_SMALL,
    "doom-hgs-small": DOOM_HGS_SMALL,
    "doom-battle2-small": DOOM_BATTLE2_SMALL,
    "push-small": PUSH_SMALL,
    "doom-take-cover-flat": DOOM_TAKE_COVER_FLAT,
    "doom-take-cover-gpu": DOOM_TAKE_COVER_GPU,
    "doom-take-cover-gpu-flat": DOOM_TAKE_COVER_GPU_FLAT,
    "doom-hgs-gpu": DOOM_HGS_GPU,
    "doom-battle2-gpu": DOOM_BATTLE2_GPU,
    "push-gpu": PUSH_GPU,
}
