"""What a world stores about the environment that it was learned from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from worldmodel.common import spaces
from worldmodel.common.pixels import PixelSpec

Labels = tuple[str, ...] | tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class WorldSpec:
    """The environment that a world was learned from.

    Attributes:
        env: id of the environment.
        pixels: how its screen was turned into frames.
        action_space: its action space.
        action_labels: a name for each action; may be empty.
        env_kwargs: arguments that the environment was made with, JSON.
        frame_skip: ticks of the environment per step.
        max_steps: steps after which recording truncated an episode; None for no limit.
        end_has_frame: whether the data holds a frame of the terminal step.
        dataset: fingerprint of the data.
    """

    env: str
    pixels: PixelSpec
    action_space: spaces.Space
    action_labels: Labels = ()
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    frame_skip: int = 1
    max_steps: int | None = None
    end_has_frame: bool = True
    dataset: str = ""

    def to_json(self) -> dict[str, Any]:
        """Every field, as JSON."""
        return {**vars(self), "pixels": self.pixels.to_json(), "action_space": self.action_space.to_json()}

    @staticmethod
    def from_json(spec: dict[str, Any]) -> WorldSpec:
        """The inverse of `to_json`; KeyError or TypeError for missing and unknown fields."""
        labels = tuple(x if isinstance(x, str) else tuple(x) for x in spec["action_labels"])
        read = {
            "pixels": PixelSpec.from_json(spec["pixels"]),
            "action_space": spaces.from_json(spec["action_space"]),
            "action_labels": labels,
        }
        return WorldSpec(**{**spec, **read})
