"""The pictures of a GPU run: curves of the trainings, and clips of the test split, recorded and dreamed.

Shapes: T frames, H x W pixels. Frames are (T, H, W, 3) uint8.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.cli.plots import line_plots, read_json_lines
from worldmodel.cli.videos import frame_strips, write_side_by_side_gif
from worldmodel.common.files import atomic_path

STRIP_FRAMES, NUM_CLIPS = 12, 3  # frames of each clip in strip.png, and clips


def draw_clips(world: Any, data: Any, out: Path) -> dict[str, Any]:
    """Write strip.png and dream.gif of test clips chosen by a fixed seed; where the clips are."""
    from worldmodel.dream.dream_clips import compare_clip

    rng = np.random.default_rng(0)
    test = data.episodes_of("test")
    frames = min(4 * STRIP_FRAMES, int(np.sort(data.lengths[test])[-min(NUM_CLIPS, len(test))]))
    episodes = rng.choice(test[data.lengths[test] >= frames], min(NUM_CLIPS, len(test)), replace=False)
    starts = [int(rng.integers(0, data.lengths[n] - frames + 1)) for n in episodes]
    clips = [compare_clip(world, data, int(n), start, frames) for n, start in zip(episodes, starts, strict=True)]
    every, rows = max(1, frames // STRIP_FRAMES), []
    for i, clip in enumerate(clips, 1):
        labelled = {f"real {i}": clip.real, "reconstructed": clip.reconstructed, "dreamed": clip.dreamed}
        rows += [(label, video[::every][:STRIP_FRAMES]) for label, video in labelled.items()]
    with atomic_path(out / "strip.png") as temporary:
        temporary.write_bytes(frame_strips(rows))
    videos = [np.concatenate([clip.real, clip.dreamed], axis=1) for clip in clips]  # real above dreamed
    write_side_by_side_gif(out / "dream.gif", videos)
    places = [{"episode": int(n), "frame": start} for n, start in zip(episodes, starts, strict=True)]
    return {"clips": places, "frames": frames, "every": every}


def plot_curves(work: Path, world: Path, flat: Path, out: Path, policy_title: str) -> dict[str, Any]:
    """Write curves.png from the logs of all trainings that have begun; `policy_title` is that of the policy's curve."""
    panels: list[Any] = []
    for title, path, x, y in (
        ("tokenizer: loss", work / "tokenizer/training/tokenizer.jsonl", "step", "reconstruction"),
        ("prior: nats per code", world / "training/prior.jsonl", "step", "codes"),
        ("flat prior: nats per code", flat / "training/prior.jsonl", "step", "codes"),
        (policy_title, work / "policy/curve.jsonl", "minutes", "return_mean"),
    ):
        rows = read_json_lines(path) if path.exists() else []
        lines = []
        for name in (y, f"val/{y}"):
            points = [(row[x], row[name]) for row in rows if name in row]
            if points:
                lines.append((name, *map(list, zip(*points, strict=True))))
        if lines:
            panels.append((x, title, lines))
    with atomic_path(out / "curves.png") as temporary:
        temporary.write_bytes(line_plots(panels))
    return {"panels": [title for _, title, _ in panels]}
