"""The size of a factored prior."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from worldmodel.prior.interface import StatusConfig


@dataclass(frozen=True)
class FactoredConfig:
    """The size of a factored prior and the weights of its losses.

    Attributes:
        kind: which prior this is.
        order: how a frame is written: "columns" from left to right, each at once; "raster", one place
            after the other; "frame", all places at once; "groups", a few groups of places that lie apart.
        num_groups: how many groups, in that order.
        mixture: K, ways in which a frame can go, one of which is drawn before its codes; what is uncertain in
            several places together then comes out whole. 1 has nothing to draw; each costs a pass of the decoder
            in learning and in likelihoods.
        window: W, frames and actions it remembers.
        width: D of trunk and decoder.
        num_heads: attention heads; divides the width.
        trunk_layers: layers that see the history.
        decoder_layers: layers that write the next frame.
        embed_dim: width of a history code's embedding; at least the codebook's, from which it starts.
        action_dim: width of an action's vector; W of them, side by side, are the condition.
        history_noise: highest share of a history's codes replaced by another clip's while training, so
            that the dream forgives its own mistakes.
        history_loss: share of the windows that lose some of their oldest frames and the status while
            training, so that a clip may begin anywhere.
        rare_share: where the last frame shows, in a place or beside it, one of the codes that together
            make this share of what the training split shows in that place, ...
        rare_weight: ... the next frame's codes count for this much in the loss. What is weighted is
            decided by the past alone, so that no probability is bent by it. 1 weights nothing.
        end_weight: weight of the end's loss beside the codes' (nats).
        status_weight: weight of the status' loss (nats).
        reward_weight: weight of the reward's squared error, in standard deviations.
        status: the hidden variable, if any.
    """

    kind: Literal["factored"] = "factored"
    order: Literal["columns", "raster", "frame", "groups"] = "columns"
    num_groups: int = 4
    mixture: int = 1
    window: int = 4
    width: int = 128
    num_heads: int = 4
    trunk_layers: int = 3
    decoder_layers: int = 2
    embed_dim: int = 64
    action_dim: int = 16
    history_noise: float = 0.06
    history_loss: float = 0.1
    rare_share: float = 0.05
    rare_weight: float = 1.0
    end_weight: float = 1.0
    status_weight: float = 1.0
    reward_weight: float = 0.1
    status: StatusConfig = field(default_factory=StatusConfig)
