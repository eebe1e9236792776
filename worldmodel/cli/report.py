"""Pages that people look at: one HTML file with its pictures inside, and the figures for it."""

from __future__ import annotations

import base64
import html
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 68rem; padding: 0 1rem; color: #1a1a1a }
h1 { margin-bottom: 0 } h2 { margin-top: 2.2rem; border-bottom: 1px solid #ddd }
.lead { color: #555; margin-top: .3rem }
img { max-width: 100%; image-rendering: pixelated; display: block; margin: .6rem 0 } img.plot { image-rendering: auto }
table { border-collapse: collapse; margin: .6rem 0 } td, th { padding: .2rem .9rem .2rem 0; text-align: left }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums } th { border-bottom: 1px solid #999 }
pre { background: #f5f5f2; padding: .7rem; overflow-x: auto; font-size: 13px } .note { color: #555; font-size: 14px }
</style></head><body>
<h1>{{ title }}</h1><p class="lead">{{ lead }}</p>
{% for section in sections %}<h2>{{ section.title }}</h2>
{% for block in section.blocks %}{{ block | safe }}
{% endfor %}{% endfor %}</body></html>
"""


@dataclass
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: list[str] = field(default_factory=list)

    def text(self, words: str, note: bool = False) -> Section:
        """A paragraph."""
        self.blocks.append(f"<p{' class=note' if note else ''}>{html.escape(words)}</p>")
        return self

    def code(self, words: str) -> Section:
        """Lines to type."""
        self.blocks.append(f"<pre>{html.escape(words)}</pre>")
        return self

    def image(self, data: bytes | Path, alt: str, kind: str = "png", width: int | None = None) -> Section:
        """A picture, put into the page itself."""
        content = data.read_bytes() if isinstance(data, Path) else data
        kind = data.suffix.lstrip(".") if isinstance(data, Path) else kind
        size = f' width="{width}"' if width else ""
        text = base64.b64encode(content).decode()
        style = " class=plot" if isinstance(data, bytes) else ""
        self.blocks.append(f'<img{style}{size} alt="{html.escape(alt)}" src="data:image/{kind};base64,{text}">')
        return self

    def table(self, rows: list[dict[str, Any]]) -> Section:
        """A table; its columns are the keys of the first row."""
        keys = list(rows[0])
        numeric = {key for key in keys if all(isinstance(row.get(key), int | float) for row in rows)}

        def cell(value: Any) -> str:
            if isinstance(value, float):
                return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
            return html.escape(str(value))

        def mark(key: str) -> str:
            return " class=number" if key in numeric else ""

        head = "".join(f"<th{mark(key)}>{html.escape(key)}</th>" for key in keys)
        body = "".join(
            "<tr>" + "".join(f"<td{mark(key)}>{cell(row.get(key, ''))}</td>" for key in keys) + "</tr>" for row in rows
        )
        self.blocks.append(f"<table><tr>{head}</tr>{body}</table>")
        return self


def write_page(path: Path, title: str, lead: str, sections: list[Section]) -> None:
    """Write one HTML file that needs nothing beside it, whole or not at all."""
    import jinja2

    from worldmodel.common.files import atomic_path

    page = jinja2.Environment(autoescape=True).from_string(TEMPLATE)
    with atomic_path(path) as temporary:
        temporary.write_text(page.render(title=title, lead=lead, sections=sections))


def _figure(width: float, height: float, columns: int) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, columns, figsize=(width, height), squeeze=False, layout="constrained")
    return figure, axes[0]


def _png(figure: Any) -> bytes:
    from matplotlib import pyplot

    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    pyplot.close(figure)
    return stream.getvalue()


def dataset_histograms(data: Any) -> bytes:
    """Returns, lengths and actions of each policy of a `Dataset`, as a PNG."""
    figure, axes = _figure(11, 3, 3)
    names = sorted(set(data.policies))
    returns = {n: [] for n in names}  # type: dict[str, list[float]]
    actions: dict[str, list[np.ndarray]] = {n: [] for n in names}
    rewards, taken = data.flat("rewards"), data.flat("actions")
    for name, begin, length in zip(data.policies, data.step_offsets, data.lengths, strict=True):
        returns[name].append(float(rewards[begin : begin + length].sum()))
        actions[name].append(taken[begin : begin + length])
    lengths = {n: data.lengths[data.policies == n] for n in names}
    for axis, values, label in ((axes[0], returns, "return"), (axes[1], lengths, "steps")):
        axis.hist([values[n] for n in names], bins=20, stacked=True, label=names)
        axis.set_xlabel(f"{label} of an episode")
        axis.set_ylabel("episodes")
    axes[0].legend(fontsize=8)
    labels = data.header.action_labels
    first = np.concatenate(actions[names[0]])
    if first.ndim == 1:
        count = len(labels) or int(first.max()) + 1
        for i, name in enumerate(names):
            share = np.bincount(np.concatenate(actions[name]), minlength=count) / max(1, lengths[name].sum())
            axes[2].bar(np.arange(count) + (i - (len(names) - 1) / 2) * 0.8 / len(names), share, 0.8 / len(names))
        axes[2].set_xticks(range(count), labels or [str(i) for i in range(count)])
    else:
        axes[2].hist([np.concatenate(actions[n]).ravel() for n in names], bins=20, density=True)
    axes[2].set_ylabel("share of steps")
    return _png(figure)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; a torn last line is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def curves(panels: list[tuple[str, str, list[tuple[str, list[float], list[float]]]]]) -> bytes:
    """Lines side by side, as a PNG.

    Args:
        panels: (label of x, label of y, [(name, xs, ys), ...]) for each panel.
    """
    figure, axes = _figure(4 * len(panels), 3, len(panels))
    for axis, (xlabel, ylabel, lines) in zip(axes, panels, strict=True):
        for name, xs, ys in lines:
            axis.plot(xs, ys, label=name)
        axis.set_xlabel(xlabel)
        axis.set_ylabel(ylabel)
        if len(lines) > 1:
            axis.legend(fontsize=8)
    return _png(figure)


def strips(rows: list[tuple[str, np.ndarray]], scale: int = 2) -> bytes:
    """Frames in labelled rows, as a PNG.

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


def grid(videos: list[np.ndarray], columns: int | None = None) -> np.ndarray:
    """Videos as one, side by side with white lines between.

    Args:
        videos: (T, H, W, 3) uint8 each, all of one shape.
        columns: in a row; up to four if not given.

    Returns:
        (T, H', W', 3) uint8.
    """
    columns = columns or min(len(videos), 4)
    videos = [*videos, *[np.full_like(videos[0], 255)] * (-len(videos) % columns)]
    framed = [np.pad(v, ((0, 0), (0, 2), (0, 2), (0, 0)), constant_values=255) for v in videos]
    rows = [np.concatenate(framed[i : i + columns], axis=2) for i in range(0, len(framed), columns)]
    return np.concatenate(rows, axis=1)


def write_video(path: Path, video: np.ndarray, kind: str = ".gif", fps: float = 9.0, scale: int = 3) -> None:
    """Write (T, H, W, 3) uint8, enlarged, as a looping ".gif" or an ".mp4" (H.264, sides made even)."""
    import imageio.v3 as iio

    big = video.repeat(scale, axis=1).repeat(scale, axis=2)
    if kind == ".gif":
        iio.imwrite(path, big, extension=".gif", duration=1000 / fps, loop=0)
        return
    even = big[:, : big.shape[1] // 2 * 2, : big.shape[2] // 2 * 2]
    iio.imwrite(path, even, extension=".mp4", plugin="pyav", codec="libx264", fps=round(fps))


def side_by_side_gif(path: Path, videos: list[np.ndarray], scale: int = 3, fps: float = 9.0) -> None:
    """Videos (T, H, W, 3) uint8 side by side, looping, written whole or not at all."""
    from worldmodel.common.files import atomic_path

    with atomic_path(path) as temporary:
        write_video(temporary, grid(videos, len(videos)), ".gif", fps, scale)
