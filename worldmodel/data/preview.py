"""Previews of a dataset: a contact sheet (PNG) and an animation (GIF).

Shapes: H x W pixels, n frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from worldmodel.common.errors import UserError
from worldmodel.common.files import atomic_path, expand_path, write_bytes_atomic
from worldmodel.data.dataset import Dataset

_BACK, _INK, _INVALID = (24, 24, 27), (228, 228, 231), (220, 60, 60)
_LABEL = 14  # pixels of a line of text
_GAP = 2


def choose_episodes(dataset: Dataset, num: int) -> list[int]:
    """Choose episodes for a preview: one of each policy and others evenly spaced, sorted by policy and number.

    Args:
        dataset: an open dataset.
        num: how many; at least one per policy, at most all episodes.
    """
    chosen = [int(np.flatnonzero(dataset.policy_numbers == n)[0]) for n in np.unique(dataset.policy_numbers)]
    remaining = np.setdiff1d(np.arange(dataset.num_episodes), chosen)
    wanted = min(max(num - len(chosen), 0), len(remaining))
    if wanted:
        chosen += remaining[np.linspace(0, len(remaining) - 1, wanted).round().astype(int)].tolist()
    return sorted(set(chosen), key=lambda n: (dataset.policy_numbers[n], n))


def _label(dataset: Dataset, number: int) -> str:
    """Number, policy, class, return, length and end of an episode."""
    begin, length = int(dataset.step_offsets[number]), int(dataset.lengths[number])
    steps = slice(begin, begin + length)
    ends = [n for n in ("terminations", "truncations") if dataset.flat(n)[steps].any()]
    end = {"terminations": ", terminated", "truncations": ", truncated"}
    total = float(dataset.flat("rewards")[steps].sum(dtype=np.float64))
    ending = "".join(end[name] for name in ends)
    label = int(dataset.labels[number])
    name = f", {dataset.class_names[label]}" if label >= 0 else ""
    return f"#{number} {dataset.policies[number]}{name}: {total:.4g} in {length} steps{ending}"


def _scale(dataset: Dataset, scale: int | None, smallest: int) -> int:
    """The given factor, or the smallest one that makes a frame at least `smallest` pixels wide."""
    if scale is None:
        return max(1, -(-smallest // dataset.header.pixels.frame_shape[1]))
    if scale < 1:
        raise UserError(f"scale={scale}; wanted an integer factor of at least 1.")
    return scale


def _enlarge(frames: np.ndarray, scale: int) -> np.ndarray:
    """Repeat pixels: (n, H, W, 3) -> (n, H*scale, W*scale, 3)."""
    return frames.repeat(scale, axis=1).repeat(scale, axis=2)


def contact_sheet(
    dataset: Dataset,
    path: str | Path,
    *,
    num_episodes: int = 8,
    num_columns: int = 10,
    num_last: int = 4,
    scale: int | None = None,
) -> Path:
    """Write frames of some episodes as a PNG: one row per episode, evenly spaced frames, then the last frames.

    A frame with `frame_valid` False has a red border.

    Args:
        dataset: an open dataset.
        path: the PNG to write.
        num_episodes: number of rows; every policy has at least one.
        num_columns: number of evenly spaced frames of each episode.
        num_last: number of frames at the end of each episode.
        scale: factor of enlargement; None for frames of about 96 pixels.

    Returns:
        The path.

    Raises:
        UserError: a number below 1, a damaged episode, or the file cannot be written.
    """
    if num_columns < 1 or num_last < 1:
        raise UserError(f"num_columns={num_columns}, num_last={num_last}; wanted at least 1 of each.")
    height, width, _ = dataset.header.pixels.frame_shape
    scale = _scale(dataset, scale, 96)
    cell_h, cell_w = height * scale + _GAP, width * scale + _GAP
    chosen = choose_episodes(dataset, num_episodes)
    row_h = cell_h + 2 * _LABEL
    sheet_w = (num_columns + num_last) * cell_w + 8 * _GAP
    sheet = Image.new("RGB", (max(sheet_w, 420), row_h * len(chosen)), _BACK)
    draw = ImageDraw.Draw(sheet)
    for row, number in enumerate(chosen):
        frames = dataset.frames(number)
        begin = int(dataset.frame_offsets[number])
        valid = dataset.flat("frame_valid")[begin : begin + len(frames)]
        last = list(range(max(len(frames) - num_last, 0), len(frames)))
        stop = max(last[0] - 1, 0)
        spaced = np.unique(np.linspace(0, stop, num_columns).round().astype(int)).tolist()
        draw.text((2, row * row_h + 1), _label(dataset, number), fill=_INK)
        columns = [*enumerate(spaced), *enumerate(last, start=num_columns)]
        for column, t in columns:
            x = column * cell_w + (4 * _GAP if column >= num_columns else 0)
            y = row * row_h + _LABEL
            sheet.paste(Image.fromarray(_enlarge(frames[t : t + 1], scale)[0]), (x, y))
            if not valid[t]:
                draw.rectangle((x, y, x + width * scale - 1, y + height * scale - 1), outline=_INVALID, width=2)
            draw.text((x + 1, y + height * scale), str(t), fill=_INK)
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
    return expand_path(path)


def gif(
    dataset: Dataset,
    path: str | Path,
    *,
    episodes: Sequence[int] | None = None,
    num_episodes: int = 4,
    max_frames: int = 150,
    fps: float = 15.0,
    scale: int | None = None,
) -> Path:
    """Write some episodes next to each other as a looping GIF; shorter ones stay on their last frame.

    Args:
        dataset: an open dataset.
        path: the GIF to write.
        episodes: their numbers; None chooses `num_episodes`, at least one per policy.
        num_episodes: how many episodes are chosen.
        max_frames: the largest number of frames of the GIF.
        fps: frames per second.
        scale: factor of enlargement by repeating pixels; None for frames of about 160 pixels.

    Returns:
        The path.

    Raises:
        UserError: an argument out of its range, a damaged episode, or the file cannot be written.
    """
    import imageio.v3 as iio

    if max_frames < 1 or fps <= 0:
        raise UserError(f"max_frames={max_frames}, fps={fps}; wanted both above 0.")
    chosen = choose_episodes(dataset, num_episodes) if episodes is None else [int(n) for n in episodes]
    if not chosen:
        raise UserError("episodes is empty; wanted the number of at least one episode.")
    scale = _scale(dataset, scale, 160)
    clips = [_enlarge(dataset.frames(number, 0, max_frames), scale) for number in chosen]
    num = max(len(clip) for clip in clips)
    _, height, width, _ = clips[0].shape
    strip = np.empty((num, height + _LABEL, len(clips) * (width + _GAP) - _GAP, 3), np.uint8)
    strip[:] = _BACK
    labels = Image.new("RGB", (strip.shape[2], _LABEL), _BACK)
    for column, (number, clip) in enumerate(zip(chosen, clips, strict=True)):
        x = column * (width + _GAP)
        strip[: len(clip), _LABEL:, x : x + width] = clip
        strip[len(clip) :, _LABEL:, x : x + width] = clip[-1]
        label = Image.new(
            "RGB", (width, _LABEL), _BACK
        )  # its own image, so that the text is clipped at the width of the episode
        ImageDraw.Draw(label).text((1, 1), _label(dataset, number), fill=_INK)
        labels.paste(label, (x, 0))
    strip[:, :_LABEL] = np.asarray(labels)
    # encoded in memory: on a full disk, imageio prints a traceback when it closes the file
    content = iio.imwrite("<bytes>", strip, extension=".gif", duration=1000 / fps, loop=0)
    return write_bytes_atomic(path, content)
