"""The kind of directory that a clip model is stored in, and its refusal where a world is wanted."""

from __future__ import annotations

from pathlib import Path

from worldmodel.common.directories import DirectoryKind
from worldmodel.common.errors import UserError

WEIGHTS = "model.safetensors"
CLIP_MODEL = DirectoryKind("clip model", "worldmodel.clip", 1, (WEIGHTS,), "worldmodel train clip --out")


def refuse_clip_model(path: Path) -> None:
    """Refuse the directory of a clip model where a world is wanted.

    Raises:
        UserError: `path` holds a clip model.
    """
    if CLIP_MODEL.is_stored_at(path):
        raise UserError(
            f"{path} holds a clip model, which samples whole clips and cannot be stepped: sample from it with "
            "ClipModel.from_pretrained or `worldmodel sample clips`, or train a world with `worldmodel train world`."
        )
