"""Options of an import, and the check that a format uses them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec

COMMON = ("env", "size", "fit", "seed", "ignore_splits")  # options of every format


@dataclass(frozen=True)
class ImportOptions:
    """Options of an import. Those that a format does not use (`ImporterRow.options`) must have their defaults.

    Attributes:
        env: the name of the environment in the header; "" for "imported/" and the format.
        size: (H, W) of the frames, by area averaging; None keeps the size of the source.
        frame_skip: keep every n-th frame of a source without actions.
        seed: gives the splits of episodes without a given split, and generated sequences.
        action_labels: the name of each action of integer actions (T,), which gives their number; empty infers the
            number from the data.
        fit: how frames of another aspect ratio become `size`: "crop" scales the short side and keeps the centre,
            "stretch" scales both sides. None is "crop" for videos without actions and "stretch" otherwise.
        ignore_splits: split by the rule "hash", although the source has official splits.
        camera: which camera is read, by its name in the source; "" for the default of the format.
        split_files: lists of the videos of each split; the names of the lists name the splits.
        num_frames: frames of a generated sequence; of a video, at most its first n frames.
        num_sequences: the number of generated sequences.
        drop_action: which action is left out where a source has as many actions as frames. "last": `actions[t]`
            follows `frames[t]`. "first": `actions[t]` led to `frames[t]`.
        action_dim: numbers per action; shorter actions are padded with zeros.

    Raises:
        UserError: a number out of its range.
    """

    env: str = ""
    size: tuple[int, int] | None = None
    frame_skip: int = 1
    seed: int = 0
    action_labels: tuple[str, ...] = ()
    fit: Literal["crop", "stretch"] | None = None
    ignore_splits: bool = False
    camera: str = ""
    split_files: tuple[Path, ...] = ()
    num_frames: int | None = None
    num_sequences: int | None = None
    drop_action: Literal["first", "last"] | None = None
    action_dim: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None:
            PixelSpec(self.size)
        for name, least in (("frame_skip", 1), ("num_frames", 2), ("num_sequences", 1), ("action_dim", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name}={value}; wanted at least {least}.")

    def check_used(self, format: str, used: tuple[str, ...]) -> None:
        """Refuse options that a format does not use.

        Args:
            format: the name of the format.
            used: its options besides `COMMON`.

        Raises:
            UserError: an option that the format does not use differs from its default.
        """
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if value != option.default and option.name not in (*COMMON, *used):
                choices = ", ".join((*COMMON, *used))
                raise UserError(
                    f"{option.name}={value!r} does not apply to the format {format!r}; its options are {choices}."
                )
