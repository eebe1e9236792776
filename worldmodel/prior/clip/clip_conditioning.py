"""What a clip is conditioned on, and the encoding of class and actions for the LayerNorms (paper section 3).

Shapes: B clips, L frames, n given frames, T time steps of codes, H W pixels, A action size, C condition width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.prior.clip.clip_config import ClipConfig
from worldmodel.prior.conditioning import ActionEncoder, action_features, num_action_features

NO_CLASS = -1  # class index of an episode without a label


@dataclass(frozen=True)
class Conditioning:
    """What B clips are conditioned on. The model's config decides which parts it needs; it refuses the others.

    Attributes:
        actions: (B, L-1) or (B, L-1, A); `actions[:, t]` takes frame t to frame t+1. The model conditions each frame
            on its own action or all codes on all actions, as set by `ClipConfig.actions`.
        class_index: (B,) int64; -1 for no label, which is learned only from episodes without one.
        frames: (B, n, H, W, 3) uint8, the given first frames, to which the positions of all blocks attend.
    """

    actions: Tensor | None = None
    class_index: Tensor | None = None
    frames: Tensor | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is no condition."""
        return all(value is None for value in vars(self).values())

    def to(self, device: torch.device | str) -> Conditioning:
        """The same on another device."""
        return Conditioning(**{name: None if value is None else value.to(device) for name, value in vars(self).items()})

    def select(self, index: slice | Tensor) -> Conditioning:
        """Some of the clips."""
        return Conditioning(**{name: None if value is None else value[index] for name, value in vars(self).items()})


class ClipConditionEncoder(nn.Module):
    """Class and actions as one condition vector for each time step; given frames are encoded by `FrameEncoder`.

    The vector is the concatenation of an embedding of the class and the actions: features of all of them, flattened, or
    an embedding of the action that leads to the frame.

    Args:
        config: what the clips are conditioned on.
        num_steps: T.
        action_space: the action space.
        num_classes: number of classes.

    Attributes:
        condition_dim: C, at least 1; without any condition it is a constant 0.
    """

    def __init__(self, config: ClipConfig, num_steps: int, action_space: spaces.Space, num_classes: int) -> None:
        super().__init__()
        if config.class_label and not num_classes:
            raise UserError(
                "a clip prior with class_label is conditioned on classes, but there is no class: give episodes labels, "
                "or set class_label to False."
            )
        if config.actions == "step" and num_steps != config.num_frames:
            raise UserError(
                f"clip prior actions='step': the tokenizer encodes {config.num_frames} frames as {num_steps} time "
                "steps, so that a step has several actions. Use actions='clip', or a tokenizer with time='frame'."
            )
        if config.actions != "none" and isinstance(action_space, spaces.NoAction):
            raise UserError(
                f"clip prior actions={config.actions!r}: the episodes have no actions (they are plain videos). Use "
                "actions='none'."
            )
        self.config, self.num_steps, self.action_space = config, num_steps, action_space
        self.num_classes = num_classes if config.class_label else 0
        self.action_encoder = ActionEncoder(action_space, config.action_dim) if config.actions == "step" else None
        self.class_embed = nn.Embedding(num_classes + 1, config.class_dim) if config.class_label else None
        class_dim = config.class_dim if config.class_label else 0
        action_dim = {
            "none": 0,
            "step": config.action_dim,
            "clip": (config.num_frames - 1 + config.action_per_frame) * num_action_features(action_space),
        }[config.actions]
        self.condition_dim = max(1, class_dim + action_dim)

    def forward(self, conditioning: Conditioning, num_clips: int, device: torch.device) -> Tensor:
        """Encode the conditions of clips.

        Args:
            conditioning: of the B clips.
            num_clips: B.
            device: of the result.

        Returns:
            (B, T, C) float32.

        Raises:
            UserError: a part is missing, not used, or of another shape or range.
        """
        self.check(conditioning, num_clips)
        actions, class_index = conditioning.actions, conditioning.class_index
        if actions is None and class_index is None:
            return torch.zeros(num_clips, self.num_steps, self.condition_dim, dtype=torch.float32, device=device)
        parts = []
        if class_index is not None and self.class_embed is not None:
            parts.append(self.class_embed(class_index.long() + 1)[:, None].expand(-1, self.num_steps, -1))
        if actions is not None and self.action_encoder is not None:
            padded = torch.cat([torch.zeros_like(actions[:, :1]), actions], 1)  # (B, T, ...): leads to each frame
            has_action = torch.arange(self.num_steps, device=actions.device).expand(num_clips, -1) > 0
            parts.append(self.action_encoder(padded, has_action))
        elif actions is not None:
            features = action_features(self.action_space, actions)  # (B, L-1, features)
            features = F.pad(features, (0, 0, 0, self.config.action_per_frame)).flatten(1)  # (B, L-1 or L * features)
            parts.append(features[:, None].expand(-1, self.num_steps, -1))
        return torch.cat(parts, -1)

    def check(self, conditioning: Conditioning, num_clips: int) -> None:
        """Refuse conditions that are missing, not used, or of another shape, or, on a CPU, out of range.

        On a GPU the values are not checked, since that would wait for the device.
        """
        actions, class_index = conditioning.actions, conditioning.class_index
        for name, value, is_used in (
            ("actions", actions, self.config.actions != "none"),
            ("class_index", class_index, self.num_classes > 0),
            ("frames", conditioning.frames, self.config.num_given_frames > 0),
        ):
            if (value is not None) != is_used:
                problem = "needs" if is_used else "is not conditioned on"
                raise UserError(f"this clip model {problem} {name}: {'give them' if is_used else 'leave them out'}.")
        if conditioning.frames is not None and len(conditioning.frames) != num_clips:
            raise UserError(f"given frames: got those of {len(conditioning.frames)} clips, wanted {num_clips}.")
        if class_index is not None:
            is_index = class_index.shape == (num_clips,) and not class_index.is_floating_point()
            if is_index and class_index.device.type == "cpu":
                is_index = bool(((class_index >= NO_CLASS) & (class_index < self.num_classes)).all())
            if not is_index:
                raise UserError(
                    f"class_index: got {class_index.tolist()}; wanted one integer from 0 to {self.num_classes - 1} "
                    f"for each of {num_clips} clips, or {NO_CLASS} for no label."
                )
        if actions is not None:
            wanted = (num_clips, self.config.num_frames - 1, *self.action_space.shape)
            if actions.shape != wanted:
                raise UserError(
                    f"actions: got shape {tuple(actions.shape)}, wanted {wanted}: one action fewer than the "
                    f"{self.config.num_frames} frames of a clip, each of {self.action_space}."
                )
