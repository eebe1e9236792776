"""Sizes of a factored prior and settings of its losses."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, Self, cast

from worldmodel.common.errors import UserError, unknown_name
from worldmodel.common.ranges import check_range
from worldmodel.prior.base_config import BasePriorConfig
from worldmodel.prior.status_config import StatusConfig

ORDERS = ("columns", "raster", "frame", "groups")


@dataclass(frozen=True)
class FactoredConfig(BasePriorConfig):
    """Sizes of a factored prior and settings of its losses.

    Attributes:
        kind: which prior this is.
        order: the groups of places that are sampled together, one group after the other. "columns": a column each,
            from left to right; "raster": a single place each; "frame": all places at once; "groups": a few groups of
            places that are far apart.
        num_groups: number of groups of the order "groups".
        mixture: K, components of a mixture, one of which is sampled before the codes. An uncertain event that
            changes several places together is then sampled consistently. 1 is no mixture. Each component costs a
            pass of the decoder in training and in likelihoods.
        window: W, frames and actions of the context.
        width: D, of trunk and decoder.
        num_heads: attention heads; divides the width.
        trunk_layers: layers that process the context.
        decoder_layers: layers that predict the next frame.
        embed_dim: width of a context code's embedding; at least the codebook's, from which it is initialised.
        action_dim: width of an action's embedding; the W embeddings, concatenated, are the condition.
        history_noise: highest share of the context's codes that are replaced by another clip's in training, so that
            the prior learns to continue from its own errors.
        history_loss: share of the contexts that lose some of their oldest frames and the status in training, so that
            a clip may begin at any frame.
        rare_share: the rarest codes of a place, which together make up this share of the codes that the training
            split has there, are its rare codes.
        rare_weight: weight in the loss of the next frame's codes at places where the last frame has a rare code, there
            or at a neighbour. The weight depends on the past alone, so it does not bias the probabilities. 1 weights
            all places equally.
        end_weight: weight of the end's loss (nats), relative to the codes'.
        status_weight: weight of the status' loss (nats).
        reward_weight: weight of the reward's squared error, in standard deviations.
        status: the hidden variable that is predicted, if any.

    Raises:
        UserError: values that are out of range or contradict each other.
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

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise unknown_name("prior order", str(self.order), ORDERS)
        for name in ("num_groups", "mixture", "window", "width", "num_heads", "embed_dim", "action_dim"):
            check_range(f"prior {name}", getattr(self, name), 1)
        for name in ("history_noise", "history_loss"):
            check_range(f"prior {name}", getattr(self, name), 0, 1)
        if not 0 <= self.rare_share < 1:
            raise UserError(f"prior rare_share={self.rare_share}: wanted 0 or more, below 1.")
        for name in ("trunk_layers", "decoder_layers"):
            check_range(f"prior {name}", getattr(self, name), 0)
        for name in ("rare_weight", "end_weight", "status_weight", "reward_weight"):
            check_range(f"prior {name}", getattr(self, name), 0)
        if self.width % self.num_heads:
            raise UserError(f"prior width={self.width}: wanted a positive multiple of num_heads={self.num_heads}.")

    @property
    def label(self) -> str:
        """As `BasePriorConfig.label`: the order."""
        return self.order

    def benchmark_variants(self) -> list[Self]:
        """As `BasePriorConfig.benchmark_variants`: every order."""
        orders = sorted(ORDERS, key=lambda order: order != self.order)
        return [replace(self, order=cast(Literal["columns"], order)) for order in orders]

    def check_clip_length(self, length: int) -> None:
        """As `BasePriorConfig.check_clip_length`."""
        if length < self.window + 1:
            raise UserError(
                f"train-prior.clip-length={length} never holds the {self.window} frames that the prior is conditioned "
                f"on and the next one: wanted at least {self.window + 1}, or a smaller --prior.window."
            )
