"""One HTML page with its images inside the file: sections of text, tables and images."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
dl { display: grid; grid-template-columns: max-content auto; gap: .6rem 1.2rem; align-items: baseline }
dt { font-size: 1.9rem; font-weight: 600; text-align: right } dd { margin: 0 }
pre { background: #f5f5f2; padding: .7rem; overflow-x: auto; font-size: 13px } .note { color: #555; font-size: 14px }
</style></head><body>
<h1>{{ title }}</h1><p class="lead">{{ lead }}</p>
{% for section in sections %}<h2>{{ section.title }}</h2>
{% for block in section.blocks %}{{ block | safe }}
{% endfor %}{% endfor %}</body></html>
"""


@dataclass
class Section:
    """A heading and the HTML blocks under it. Each method appends one block and returns the section."""

    title: str
    blocks: list[str] = field(default_factory=list)

    def text(self, text: str, note: bool = False) -> Section:
        """Append a paragraph; a note is smaller and grey."""
        self.blocks.append(f"<p{' class=note' if note else ''}>{html.escape(text)}</p>")
        return self

    def figures(self, figures: list[tuple[str, str]]) -> Section:
        """Append large figures, each with a sentence that explains it."""
        rows = [f"<dt>{html.escape(figure)}</dt><dd>{html.escape(text)}</dd>" for figure, text in figures]
        self.blocks.append(f"<dl>{''.join(rows)}</dl>")
        return self

    def code(self, text: str) -> Section:
        """Append preformatted lines, such as commands."""
        self.blocks.append(f"<pre>{html.escape(text)}</pre>")
        return self

    def image(self, data: bytes | Path, alt: str, kind: str = "png", width: int | None = None) -> Section:
        """Append an image, embedded in the page.

        Args:
            data: the file's bytes (a plot, smoothed when scaled) or its path (pixels, not smoothed).
            alt: text for readers who do not see the image.
            kind: format of `data` if it is bytes; a path's suffix gives its own.
            width: pixels on the page; the image's own width if not given.
        """
        content = data.read_bytes() if isinstance(data, Path) else data
        kind = data.suffix.lstrip(".") if isinstance(data, Path) else kind
        size = f' width="{width}"' if width else ""
        text = base64.b64encode(content).decode()
        style = " class=plot" if isinstance(data, bytes) else ""
        self.blocks.append(f'<img{style}{size} alt="{html.escape(alt)}" src="data:image/{kind};base64,{text}">')
        return self

    def table(self, rows: list[dict[str, Any]]) -> Section:
        """Append a table; its columns are the keys of the first row."""
        keys = list(rows[0])
        numeric = {key for key in keys if all(isinstance(row.get(key), int | float) for row in rows)}

        def cell(value: Any) -> str:
            if isinstance(value, float):
                return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
            return html.escape(str(value))

        def css_class(key: str) -> str:
            return " class=number" if key in numeric else ""

        head = "".join(f"<th{css_class(key)}>{html.escape(key)}</th>" for key in keys)
        body = "".join(
            "<tr>" + "".join(f"<td{css_class(key)}>{cell(row.get(key, ''))}</td>" for key in keys) + "</tr>"
            for row in rows
        )
        self.blocks.append(f"<table><tr>{head}</tr>{body}</table>")
        return self


def write_page(path: Path, title: str, lead: str, sections: list[Section]) -> None:
    """Write one self-contained HTML file, atomically.

    Args:
        path: the file.
        title: heading of the page.
        lead: the line under it.
        sections: in order.
    """
    import jinja2

    from worldmodel.common.files import atomic_path

    page = jinja2.Environment(autoescape=True).from_string(TEMPLATE)
    with atomic_path(path) as temporary:
        temporary.write_text(page.render(title=title, lead=lead, sections=sections))
