"""Named configurations."""

from __future__ import annotations

from dataclasses import replace

from worldmodel.prior.factored import FactoredConfig
from worldmodel.prior.flat_config import FlatConfig
from worldmodel.prior.interface import StatusConfig
from worldmodel.tokenizer.vqvae import TokenizerConfig
from worldmodel.train.config import LoopConfig, WorldConfig

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

DOOM_TAKE_COVER_DEMO = WorldConfig(
    prior=FactoredConfig(
        window=3,
        width=96,
        num_heads=4,
        trunk_layers=2,
        decoder_layers=1,
        embed_dim=32,
        status=StatusConfig("health", (26.5, 47.5, 68.5, 89.5)),
    ),
    train_tokenizer=LoopConfig(minutes=1.0, min_steps=600, batch_size=8, clip_length=2, learning_rate=3e-3),
    train_prior=LoopConfig(minutes=1.5, min_steps=600, batch_size=16, clip_length=4, learning_rate=2e-3),
)

TINY_FLAT = replace(TINY, prior=FlatConfig(window=2, width=32, num_heads=2, num_layers=2, action_dim=8))

DOOM_TAKE_COVER_FLAT = replace(
    DOOM_TAKE_COVER_DEMO,
    prior=FlatConfig(
        window=4,
        width=128,
        num_heads=4,
        num_layers=3,
        status=StatusConfig("health", (26.5, 47.5, 68.5, 89.5)),
    ),
    train_prior=LoopConfig(minutes=20.0, min_steps=600, batch_size=8, clip_length=8, learning_rate=1e-3),
)

PRESETS: dict[str, WorldConfig] = {
    "tiny": TINY,
    "tiny-flat": TINY_FLAT,
    "doom-take-cover-demo": DOOM_TAKE_COVER_DEMO,
    "doom-take-cover-flat": DOOM_TAKE_COVER_FLAT,
}
