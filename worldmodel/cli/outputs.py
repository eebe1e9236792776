"""Output files that the verbs share: checks before the work begins, and images and videos of frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from worldmodel.common.errors import UserError

MAX_COLUMNS = 16  # frames in a row of a PNG; longer clips are subsampled
FPS = 9.0


def refuse_existing(path: Path, force: bool, flag: str = "--out") -> None:
    """Refuse to replace an output without --force.

    Args:
        path: the output.
        force: the verb's --force.
        flag: the flag that names the output.

    Raises:
        UserError: `path` exists and `force` is False.
    """
    if path.exists() and not force:
        raise UserError(f"{path} exists; choose another {flag}, or --force to replace it.")


def check_picture_path(path: Path, force: bool) -> None:
    """Refuse an image or video that cannot be written, before anything is computed.

    Raises:
        UserError: the suffix is none of .png, .gif and .mp4, PyAV is missing for .mp4, or the file exists.
    """
    if path.suffix not in (".png", ".gif", ".mp4"):
        raise UserError(f"--out {path}: wanted a name that ends in .png, .gif or .mp4.")
    if path.suffix == ".mp4":
        try:
            import av  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"--out {path}: MP4 needs PyAV: pip install 'worldmodel[video]', or write a .gif."
            ) from error
    refuse_existing(path, force)


def write_clips(path: Path, clips: list[tuple[str, np.ndarray]]) -> None:
    """Write clips atomically: a .png with one labelled row for each, or a .gif or .mp4 with all in a grid.

    Args:
        path: the file; its suffix chooses the format.
        clips: (label, frames (T, H, W, 3) uint8), all of one shape.
    """
    from worldmodel.cli.videos import frame_strips, video_grid, write_video
    from worldmodel.common.files import atomic_path

    if path.suffix == ".png":
        every = max(1, -(-len(clips[0][1]) // MAX_COLUMNS))
        image = frame_strips([(label, video[::every]) for label, video in clips])
        with atomic_path(path) as temporary:
            temporary.write_bytes(image)
        return
    video = video_grid([video for _, video in clips])  # (T, H', W', 3)
    with atomic_path(path) as temporary:
        write_video(temporary, video, path.suffix, FPS)
