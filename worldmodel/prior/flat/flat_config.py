"""Sizes of a flat prior and settings of its losses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from worldmodel.prior.interface import StatusConfig


@dataclass(frozen=True)
class FlatConfig:
    """Sizes of a flat prior and settings of its losses.

    Attributes:
        kind: which prior this is.
        attention: "window": a position attends to its own frame up to itself and to the W frames before; "full": to
            everything before it, in clips and dreams of up to num_frames frames.
        positions: "rotary": relative positions in time, row and column, for dreams of any length; "paper": learned
            embeddings of time, row and column, for clips and dreams of up to num_frames frames.
        scope: what a frame is conditioned on. "step": the action that leads to it; "clip": the actions of the whole
            clip, flattened (paper section 3), for clips of up to num_frames frames that are never stepped.
        previous_frame: whether a position gets the previous frame's code at the place that it predicts as an input.
        window: W, frames of a dream's context and of the attention window.
        num_frames: longest clip if attention, positions or scope limits its length.
        width: D.
        num_heads: H; divides the width.
        num_kv_heads: key/value heads, a divisor of num_heads; 0 for as many as num_heads. With fewer, several query
            heads share one, and the cache is smaller by that factor (Ainslie et al. 2023, "GQA").
        num_layers: L.
        feedforward: width of the feed-forward layers, as a multiple of D.
        dropout: dropout probability after attention and feed-forward layers.
        action_dim: width of an action's embedding.
        history_noise: highest share of the input codes that are replaced by another clip's in training, so that the
            prior learns to continue from its own errors. This includes earlier codes of the predicted frame.
        history_loss: share of the clips whose first frames lose their status in training, so that a dream may begin
            at any frame.
        end_weight: weight of the end's loss (nats), relative to the codes'.
        status_weight: weight of the status' loss (nats).
        reward_weight: weight of the reward's squared error, in standard deviations.
        status: the hidden variable that is predicted, if any.
    """

    kind: Literal["flat"] = "flat"
    attention: Literal["window", "full"] = "window"
    positions: Literal["rotary", "paper"] = "rotary"
    scope: Literal["step", "clip"] = "step"
    previous_frame: bool = True
    window: int = 4
    num_frames: int = 16
    width: int = 128
    num_heads: int = 4
    num_kv_heads: int = 0
    num_layers: int = 4
    feedforward: int = 4
    dropout: float = 0.0
    action_dim: int = 16
    history_noise: float = 0.02
    history_loss: float = 0.1
    end_weight: float = 1.0
    status_weight: float = 1.0
    reward_weight: float = 0.1
    status: StatusConfig = field(default_factory=StatusConfig)

    @property
    def bounded(self) -> bool:
        """Whether clips and dreams are limited to `num_frames` frames."""
        return self.attention == "full" or self.positions == "paper" or self.scope == "clip"
