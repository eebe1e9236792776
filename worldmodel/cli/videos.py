"""Frames of several clips in one image or one video.

Shapes: T frames, H x W pixels. Frames are (T, H, W, 3) uint8.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np


def frame_strips(rows: list[tuple[str, np.ndarray]], scale: int = 2) -> bytes:
    """Frames in labelled rows, as the bytes of a PNG.

    Args:
        rows: (label, frames (T, H, W, 3) uint8) from top to bottom.
        scale: whole-number enlargement.
    """
    from PIL import Image, ImageDraw, ImageFont

    margin, gap, font = 170, 2, ImageFont.load_default(size=22)
    height, width = rows[0][1].shape[1] * scale, rows[0][1].shape[2] * scale
    longest = max(len(frames) for _, frames in rows)
    sheet = Image.new("RGB", (margin + longest * (width + gap), len(rows) * (height + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for y, (label, frames) in enumerate(rows):
        draw.multiline_text((4, y * (height + gap) + height // 2 - 26), label, fill="black", font=font)
        for x, frame in enumerate(frames):
            picture = Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(picture, (margin + x * (width + gap), y * (height + gap)))
    stream = io.BytesIO()
    sheet.save(stream, format="png")
    return stream.getvalue()


def video_grid(videos: list[np.ndarray], columns: int | None = None) -> np.ndarray:
    """Several videos as one: a grid with white lines between.

    Args:
        videos: (T, H, W, 3) uint8 each, all of one shape.
        columns: videos in a row; up to four if not given.

    Returns:
        (T, H', W', 3) uint8.
    """
    columns = columns or min(len(videos), 4)
    videos = [*videos, *[np.full_like(videos[0], 255)] * (-len(videos) % columns)]
    framed = [np.pad(v, ((0, 0), (0, 2), (0, 2), (0, 0)), constant_values=255) for v in videos]
    rows = [np.concatenate(framed[i : i + columns], axis=2) for i in range(0, len(framed), columns)]
    return np.concatenate(rows, axis=1)


def write_video(path: Path, video: np.ndarray, kind: str = ".gif", fps: float = 9.0, scale: int = 3) -> None:
    """Write a looping GIF or an MP4.

    Args:
        path: the file; overwritten.
        video: (T, H, W, 3) uint8.
        kind: ".gif", or ".mp4" (H.264; an odd last row or column is cut off).
        fps: frames per second.
        scale: whole-number enlargement.
    """
    import imageio.v3 as iio

    large = video.repeat(scale, axis=1).repeat(scale, axis=2)
    # Encoded in memory: if a write fails, imageio's writer tries again when it is collected, and prints a traceback.
    if kind == ".gif":
        data = iio.imwrite("<bytes>", large, extension=".gif", duration=1000 / fps, loop=0)
    else:
        even = large[:, : large.shape[1] // 2 * 2, : large.shape[2] // 2 * 2]
        data = iio.imwrite("<bytes>", even, extension=".mp4", plugin="pyav", codec="libx264", fps=round(fps))
    path.write_bytes(data)


def write_side_by_side_gif(path: Path, videos: list[np.ndarray], scale: int = 3, fps: float = 9.0) -> None:
    """Write videos (T, H, W, 3) uint8 in one row as a looping GIF, atomically."""
    from worldmodel.common.files import atomic_path

    with atomic_path(path) as temporary:
        write_video(temporary, video_grid(videos, len(videos)), ".gif", fps, scale)
