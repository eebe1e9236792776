"""Sizes of a clip prior, and what it is conditioned on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from worldmodel.common.errors import UserError, unknown_name
from worldmodel.common.ranges import check_range

CHOICES = {
    "actions": ("none", "step", "clip"),
    "frame_encoder": ("small", "resnet18", "resnet34"),
    "attention": ("full", "sparse"),
    "positions": ("rotary", "paper"),
}


@dataclass(frozen=True)
class ClipConfig:
    """Sizes of a clip prior, and what it is conditioned on.

    Attributes:
        num_frames: L, frames of every clip.
        actions: "none": no actions; "step": each frame is conditioned on the action that leads to it, which needs a
            tokenizer that encodes each frame alone; "clip": every code is conditioned on the actions of the whole
            clip, flattened (paper section 3).
        action_per_frame: with actions "clip": flatten one action for each frame, as the paper does for BAIR (16 actions
            of 4 numbers). A clip of L frames has L-1 actions; the one at its last frame leads out of it and is 0.
        num_given_frames: number of first frames that are given: every block attends to their features (paper section
            3); 0 for none. A clip's own first frames are given in training.
        frame_encoder: network that encodes the given frames: "small", or a 3D ResNet of depth 18 or 34 (paper table 9).
        frame_units: channels of the ResNet's last stage, a multiple of 8.
        class_label: whether the clips are conditioned on the class label of their episode.
        attention: "full": every position attends to all before it; "sparse", the paper's sparse layout: to its own row
            of codes, the four rows before it, and the same row of every earlier time step (see `sparse_attention`).
        positions: "rotary": relative positions in time, row and column; "paper": learned embeddings of time, row and
            column.
        previous_frame: whether a position gets the code of the previous time step at the place that it predicts as
            an input.
        width: D.
        num_heads: H; divides the width.
        num_kv_heads: key/value heads, a divisor of num_heads; 0 for as many as num_heads.
        num_layers: number of blocks.
        feedforward: width of the feed-forward layers, as a multiple of D.
        dropout: dropout probability after attention and feed-forward layers.
        action_dim: width of an action's embedding, with actions "step".
        class_dim: width of a class' embedding.

    Raises:
        UserError: values that are out of range or contradict each other.
    """

    num_frames: int = 16
    actions: Literal["none", "step", "clip"] = "none"
    num_given_frames: int = 0
    class_label: bool = False
    action_per_frame: bool = False
    frame_encoder: Literal["small", "resnet18", "resnet34"] = "small"
    frame_units: int = 512
    attention: Literal["full", "sparse"] = "full"
    positions: Literal["rotary", "paper"] = "rotary"
    previous_frame: bool = False
    width: int = 128
    num_heads: int = 4
    num_kv_heads: int = 0
    num_layers: int = 4
    feedforward: int = 4
    dropout: float = 0.0
    action_dim: int = 16
    class_dim: int = 16

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise unknown_name(f"clip prior {name}", str(getattr(self, name)), known)
        for name in ("width", "num_heads", "num_layers", "feedforward", "action_dim", "class_dim"):
            check_range(f"clip prior {name}", getattr(self, name), 1)
        check_range("clip prior num_frames", self.num_frames, 2)
        check_range("clip prior num_given_frames", self.num_given_frames, 0, self.num_frames)
        check_range("clip prior dropout", self.dropout, 0, 1)
        check_range("clip prior num_kv_heads", self.num_kv_heads, 0)
        if self.frame_units < 8 or self.frame_units % 8:
            raise UserError(f"clip prior frame_units={self.frame_units}: wanted a multiple of 8, at least 8.")
        if self.width % self.num_heads:
            raise UserError(f"clip prior width={self.width}: wanted a multiple of num_heads={self.num_heads}.")
        if self.num_heads % (self.num_kv_heads or self.num_heads):
            raise UserError(
                f"clip prior num_kv_heads={self.num_kv_heads}: wanted a divisor of num_heads={self.num_heads}, or 0 "
                "for as many."
            )

    @property
    def is_conditional(self) -> bool:
        """Whether clips are conditioned on anything."""
        return self.actions != "none" or self.num_given_frames > 0 or self.class_label
