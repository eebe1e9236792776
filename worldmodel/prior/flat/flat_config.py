"""Sizes of a flat prior and settings of its losses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from worldmodel.common.errors import UserError, unknown_name
from worldmodel.common.ranges import check_range
from worldmodel.prior.base_config import BasePriorConfig
from worldmodel.prior.status_config import StatusConfig


@dataclass(frozen=True)
class FlatConfig(BasePriorConfig):
    """Sizes of a flat prior and settings of its losses.

    Attributes:
        kind: which prior this is.
        attention: "window": a position attends to its own frame up to itself and to the W frames before; "full": to
            everything before it, in clips and dreams of up to num_frames frames.
        positions: "rotary": relative positions in time, row and column, for dreams of any length; "paper": learned
            embeddings of time, row and column, for clips and dreams of up to num_frames frames.
        previous_frame: whether a position gets the previous frame's code at the place that it predicts as an input.
        window: W, frames of a dream's context and of the attention window.
        num_frames: longest clip if attention or positions limit its length.
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

    Raises:
        UserError: values that are out of range or contradict each other.
    """

    kind: Literal["flat"] = "flat"
    attention: Literal["window", "full"] = "window"
    positions: Literal["rotary", "paper"] = "rotary"
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

    def __post_init__(self) -> None:
        choices = {"attention": ("window", "full"), "positions": ("rotary", "paper")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise unknown_name(f"prior {name}", str(getattr(self, name)), known)
        for name in ("window", "num_frames", "width", "num_heads", "num_layers", "feedforward", "action_dim"):
            check_range(f"prior {name}", getattr(self, name), 1)
        for name in ("dropout", "history_noise", "history_loss"):
            check_range(f"prior {name}", getattr(self, name), 0, 1)
        for name in ("num_kv_heads", "end_weight", "status_weight", "reward_weight"):
            check_range(f"prior {name}", getattr(self, name), 0)
        if self.width % self.num_heads:
            raise UserError(f"prior width={self.width}: wanted a positive multiple of num_heads={self.num_heads}.")
        if self.num_heads % (self.num_kv_heads or self.num_heads):
            raise UserError(
                f"prior num_kv_heads={self.num_kv_heads}: wanted a divisor of num_heads={self.num_heads}, or 0 for "
                "as many."
            )
        if self.bounded and self.num_frames <= self.window:
            raise UserError(
                f"prior num_frames={self.num_frames} leaves no frame to predict after a context of "
                f"window={self.window}; raise num_frames or lower window."
            )

    @property
    def bounded(self) -> bool:
        """Whether clips and dreams are limited to `num_frames` frames."""
        return self.attention == "full" or self.positions == "paper"

    def check_clip_length(self, length: int) -> None:
        """As `BasePriorConfig.check_clip_length`."""
        if self.bounded and length > self.num_frames:
            raise UserError(
                f"train-prior.clip-length={length} is longer than the {self.num_frames} frames that this prior can "
                "hold: shorten it, or raise --prior.num-frames."
            )

    def hashed_fields(self) -> dict[str, Any]:
        """As `BasePriorConfig.hashed_fields`: with the former field `scope`, so that older exports stay valid."""
        fields = super().hashed_fields()
        names = list(fields)
        last = names.index("positions") + 1
        return {name: {**fields, "scope": "step"}[name] for name in (*names[:last], "scope", *names[last:])}

    @classmethod
    def upgrade_saved(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """As `BasePriorConfig.upgrade_saved`: without the former field `scope`.

        Raises:
            UserError: the scope was the clip.
        """
        if fields.get("scope", "step") == "clip":
            raise UserError(
                "scope='clip': a flat prior is no longer conditioned on the actions of a whole clip; train a "
                "clip model with `worldmodel train clip`."
            )
        return {name: value for name, value in fields.items() if (name, value) != ("scope", "step")}
