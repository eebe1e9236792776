"""The size of a flat prior."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from worldmodel.prior.interface import StatusConfig


@dataclass(frozen=True)
class FlatConfig:
    """The size of a flat prior and the weights of its losses.

    Attributes:
        kind: which prior this is.
        attention: "window": a position sees its own frame up to itself and the W frames before; "full": all
            that went before it, in clips and dreams of up to num_frames frames.
        positions: "rotary": differences of time, row and column, for dreams of any length; "paper": learned
            vectors of time, row and column, for clips and dreams of up to num_frames frames.
        scope: what conditions a frame. "step": the action that led to it; "clip": the whole clip's actions,
            flattened (paper section 3), for clips of up to num_frames frames that are never stepped.
        previous_frame: whether a position is given the code that the frame before had at the place it predicts.
        window: W, frames of a dream's context and of the window's attention.
        num_frames: longest clip where attention, positions or scope has an end.
        width: D.
        num_heads: H; divides the width.
        num_kv_heads: heads of keys and values, divides num_heads; 0 is as many. With fewer, several queries share
            them, and the cache is so many times smaller (Ainslie et al. 2023, "GQA").
        num_layers: L.
        feedforward: width of the feed-forward layers, in D.
        dropout: after attention and feed-forward.
        action_dim: width of an action's vector.
        history_noise: highest share of the codes read that are replaced by another clip's while training, so
            that the dream forgives its own mistakes. A frame's codes are read by those after them in the same
            frame too.
        history_loss: share of the clips that lose the status of their first frames while training, so that
            a dream may begin anywhere.
        end_weight: weight of the end's loss beside the codes' (nats).
        status_weight: weight of the status' loss (nats).
        reward_weight: weight of the reward's squared error, in standard deviations.
        status: the hidden variable, if any.
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
        """Whether clips and dreams may have no more than `num_frames` frames."""
        return self.attention == "full" or self.positions == "paper" or self.scope == "clip"
